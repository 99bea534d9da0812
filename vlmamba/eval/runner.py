"""What `vlmamba eval` does: every question of a benchmark to a model, its answers kept as they come, then scores.

What a run leaves behind in its folder OUT (`vlmamba score -o OUT` writes the same but for the answers):

    OUT/manifest.json            what was run: {"format", "partial", "versions", "model": {"name", "fingerprint",
                                 "dtype", "device"}, "tasks": {task: {"partial", "protocol", "limit", "num_questions",
                                 "num_asked", "num_missing", "missing_pictures", "notes", "data", "files": {path:
                                 {"bytes", "sha256"}}, "pictures": {"count", "bytes", "sha256"}, "prompts_sha256",
                                 "parser_sha256", "max_new_tokens", "batch_size"}}}
    OUT/<task>/answers.jsonl     a line an answer, as LLaVA's: question_id, prompt, text, model_id, metadata
    OUT/<task>/scores.json       {"task", "protocol", "metric", "value", "interval": [low, high], "tables": {name:
                                 {...}}, "num_questions", "num_missing", "partial", "notes": [...]}
    OUT/<task>/samples.jsonl     a line a scored answer: {"id", "category", "prompt", "picture", "raw", "parsed",
                                 "gold", "score" (0 to 1), "rule"}; "picture" is an absolute path, or one relative to
                                 OUT/<task>/ where the benchmark embeds its pictures, or null
    OUT/<task>/pictures/         the embedded pictures (mmbench, mmmu)
    OUT/<task>/submission.*      what the benchmark's server takes; submission.partial.* where answers are missing
    OUT/mmvet/grades.json        the judge's grades
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vlmamba.checkpoints import find_directory
from vlmamba.engine import Sampling
from vlmamba.eval import manifest
from vlmamba.eval.contents import Contents
from vlmamba.eval.grading import Grading
from vlmamba.eval.journal import Journal
from vlmamba.eval.outcome import Outcome, conclude
from vlmamba.eval.picture_files import describe_missing, name_pictures
from vlmamba.eval.plan import Album, batches, group_by_picture, limited, with_pictures
from vlmamba.eval.processes import Processes
from vlmamba.eval.task import Protocol
from vlmamba.eval.tasks import benchmark
from vlmamba.meter import Meter
from vlmamba.pictures import PictureError, open_picture
from vlmamba.vlm import VLM, embedded_model

logger = logging.getLogger("vlmamba")

# What must be the same for a run to be gone on with, as it decides the answers, and what to call it.
_KEPT = {
    "limit": "--limit",
    "max_new_tokens": "--max-new-tokens",
    "batch_size": "--batch-size",
    "prompts_sha256": "questions",
    "pictures": "pictures",
}


@dataclass(frozen=True)
class Settings:
    """What the user wants: where the data lie and the results go, how much is asked, and how it is scored.

    `limit`: questions of each benchmark at most; `allow_missing`: leave out questions whose pictures are missing;
    `pictures`: a further folder of pictures; `max_new_tokens` None: the benchmark's own.
    """

    data: Path
    out: Path
    protocol: Protocol = "official"
    limit: int | None = None
    allow_missing: bool = False
    batch_size: int = 16
    max_new_tokens: int | None = None
    pictures: Path | None = None
    grading: Grading = field(default_factory=Grading)


@dataclass(frozen=True)
class Plan:
    """One benchmark of a run: what is asked, picture by picture and in the benchmark's order, and its entry in the
    manifest."""

    task: str
    albums: list[Album]
    asked: list[str]
    entry: dict[str, Any]


def make_plan(task: str, settings: Settings) -> Plan:
    """Reads a benchmark's files and finds its pictures, before any model is loaded.

    Raises ValueError or FileNotFoundError, each with one line that says what to do.
    """
    module = benchmark(task)
    if settings.protocol not in module.PROTOCOLS:
        raise ValueError(
            f"{task} has no protocol {settings.protocol!r}; it has {', '.join(module.PROTOCOLS)}"
        )
    for name in ("limit", "batch_size", "max_new_tokens"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    contents = Contents.read(task, settings.data, settings.pictures)
    questions, files, missing = contents.questions, contents.files, contents.missing
    if not any(question.prompt for question in questions):
        raise ValueError(
            f"{task}: {settings.data} holds no prompts to ask; {'; '.join(contents.notes)}"
        )
    asked = with_pictures(questions, files)
    if missing and not (settings.allow_missing and asked):
        raise ValueError(describe_missing(task, missing, len(files) + len(missing), settings.data))
    if settings.limit is not None:
        asked = limited(asked, settings.limit, task)
    entry = {
        "partial": len(asked) < len(questions),
        "protocol": settings.protocol,
        "limit": settings.limit,
        "num_asked": len(asked),
        **contents.describe(asked),
        "max_new_tokens": settings.max_new_tokens or module.MAX_NEW_TOKENS,
        "batch_size": settings.batch_size,
    }
    return Plan(task, group_by_picture(asked, files), [q.id for q in asked], entry)


def describe_model(vlm: VLM, source: str | None) -> dict[str, Any]:
    """The manifest's entry of a model that `vlmamba.load(source)` gave."""
    directory = find_directory(source or embedded_model())
    return {
        "name": source or "the embedded mini model",
        "fingerprint": manifest.model_fingerprint(directory),
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "device": vlm.model.device.type,
    }


def evaluate(
    vlm: VLM,
    model: dict[str, Any],
    plans: Sequence[Plan],
    settings: Settings,
    processes: Processes | None = None,
    quiet: bool = False,
) -> list[Outcome]:
    """Asks all questions that have no answer yet, and scores; of several processes each asks its share.

    The batches are the same whether a run is interrupted or not and whatever the number of processes, so that the
    answers are, too. Gives the outcomes in the first process, nothing in the others.
    Raises ValueError where the output folder holds another run.
    """
    processes = processes or Processes()
    if processes.first:
        for plan in plans:
            check_same_run(plan, model, settings.out)
        entries = {plan.task: plan.entry for plan in plans}
        manifest.write_manifest(settings.out, model, entries)
    processes.wait_for_all()
    for plan in plans:
        answer(vlm, plan, settings, model["name"], processes, quiet)
    processes.wait_for_all()
    outcomes = []
    if processes.first:
        for plan in plans:
            outcomes.append(_conclude(plan, settings))
            manifest.write_manifest(settings.out, model, {plan.task: plan.entry})
    processes.part()
    return outcomes


def check_same_run(plan: Plan, model: dict[str, Any], out: Path) -> None:
    """Raises ValueError unless the answers that are in `out` came about as those of this run will."""
    before = manifest.read_manifest(out)
    folder = out / plan.task
    if before is None:
        if Journal(folder).read():
            raise ValueError(
                f"{folder} holds answers without a manifest; name another output folder"
            )
        return
    for name in ("fingerprint", "dtype", "device"):
        if before["model"].get(name) != model[name]:
            raise ValueError(
                f"{out} is the output of another model ({before['model'].get('name')}, {name} "
                f"{before['model'].get(name)}; now {model[name]}): name another output folder"
            )
    entry = before["tasks"].get(plan.task)
    if entry is None or not Journal(folder).read():
        return
    for name, called in _KEPT.items():
        if entry.get(name) != plan.entry[name]:
            raise ValueError(
                f"{folder} was begun with other {called}; go on with the same, name another output folder, or "
                f"remove {folder}"
            )


def answer(
    vlm: VLM,
    plan: Plan,
    settings: Settings,
    model_name: str,
    processes: Processes,
    quiet: bool = False,
) -> None:
    """Asks this process's share of a benchmark's questions, as far as they have no answer on disk."""
    journal = Journal(settings.out / plan.task, processes.rank, processes.world_size)
    done = journal.read().keys()
    share = list(batches(plan.albums, settings.batch_size))[processes.rank :: processes.world_size]
    mine = [question.id for batch in share for album in batch for question in album.questions]
    # A batch of which an answer is missing is asked again as a whole: neighbours can change the last bits of sums.
    left = [b for b in share if any(q.id not in done for album in b for q in album.questions)]
    sampling = Sampling(max_new_tokens=plan.entry["max_new_tokens"])
    quiet = quiet or not processes.first
    with Meter(plan.task, len(done & set(mine)), len(mine), quiet) as meter:
        for batch in _opened(left, settings.allow_missing):
            asked = [question for _, album in batch for question in album.questions]
            texts = _ask(vlm, batch, sampling, settings.batch_size)
            records = [
                {
                    "question_id": question.id,
                    "prompt": question.prompt,
                    "text": text.strip(),
                    "model_id": model_name,
                    "metadata": {} if settings.limit is None else {"limit": settings.limit},
                }
                for question, text in zip(asked, texts, strict=True)
                if question.id not in done
            ]
            journal.append(records)
            meter.advance(len(records))


def _ask(
    vlm: VLM,
    batch: Sequence[tuple[Image.Image | None, Album]],
    sampling: Sampling,
    batch_size: int,
) -> list[str]:
    """The answers to all questions of a batch, each picture read once."""
    pairs = []
    for picture, album in batch:
        # More questions than go together: what was read is kept for all of them.
        subject = vlm.read(picture) if len(album.questions) > batch_size else picture
        pairs += [(subject, question.prompt) for question in album.questions]
    return vlm.ask_many(pairs, sampling, batch_size)


def _opened(
    share: Iterable[list[Album]], allow_missing: bool
) -> Iterator[list[tuple[Image.Image | None, Album]]]:
    """Each batch with its pictures, which are decoded while the model is busy with the batch before."""

    def open_batch(batch: list[Album]) -> list[tuple[Image.Image | None, Album]]:
        opened = []
        for album in batch:
            try:
                picture = None if album.picture is None else open_picture(album.picture)
            except PictureError as error:
                if not allow_missing:
                    raise ValueError(
                        f"{album.questions[0].id}: {error} (the answers so far are kept)"
                    ) from None
                logger.warning("%s: left out: %s", album.questions[0].id, error)
            else:
                opened.append((picture, album))
        return opened

    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = None
        for batch in share:
            opening = pool.submit(open_batch, batch)
            if waiting is not None and (opened := waiting.result()):
                yield opened
            waiting = opening
        if waiting is not None and (opened := waiting.result()):
            yield opened


def _conclude(plan: Plan, settings: Settings) -> Outcome:
    """Merges the answers, scores them, and completes the manifest's entry."""
    folder = settings.out / plan.task
    Journal(folder).merge(plan.asked)
    outcome = conclude(
        plan.task,
        folder / "answers.jsonl",
        settings.data,
        folder,
        protocol=settings.protocol,
        allow_missing=settings.allow_missing,
        grading=settings.grading,
        asked=None if settings.limit is None else frozenset(plan.asked),
        pictures=name_pictures(plan.albums, folder),
    )
    num_answers = len(Journal(folder).read())
    plan.entry["num_missing"] = plan.entry["num_questions"] - num_answers
    plan.entry["partial"] = plan.entry["num_missing"] > 0
    return outcome
