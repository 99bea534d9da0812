"""What `vlmamba score` does: answers of any model and the official files in, scores with their evidence out."""

import gc
import json
import os
import shutil
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmamba.eval.answers import read_answers
from vlmamba.eval.pairing import pair_answers
from vlmamba.eval.reading import read_json
from vlmamba.eval.task import Pair, Protocol, Scores
from vlmamba.eval.tasks import benchmark, mmvet, vqav2

# What a note begins with where not every question was asked and answered.
PARTIAL = "PARTIAL"


def read_pairs(
    task: str,
    answers: Path,
    data: Path,
    allow_missing: bool,
    asked: Container[str] | None = None,
) -> tuple[list[Pair], list[str]]:
    """The questions with the answers of a file, and notes; arguments and errors as of `score_file`."""
    module = benchmark(task)
    questions, notes = module.read(data)
    if asked is not None:
        num_questions, questions = len(questions), [q for q in questions if q.id in asked]
        notes = [*notes, f"{PARTIAL}: {len(questions):,} of {num_questions:,} questions asked"]
    pairs = pair_answers(module, questions, read_answers(answers), allow_missing=allow_missing)
    num_missing = sum(text is None for _, text in pairs)
    if num_missing:
        notes = [*notes, f"{PARTIAL}: {num_missing:,} of {len(pairs):,} questions have no answer"]
    return pairs, notes


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the cyclic garbage collector, which would walk millions of living records again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_grades(path: Path) -> dict[str, dict[str, list[Any]]]:
    """MM-Vet's grades file, {id: {model, content, score}}. Raises ValueError where it is not one."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: an object {{id: {{model, content, score}}}} is needed")
    for number, grade in content.items():
        scores = grade.get("score") if isinstance(grade, dict) else None
        if not isinstance(scores, list) or not scores:
            raise ValueError(f"{path}: {number} has no list 'score'")
        for value in scores:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(
                    f"{path}: {number} is graded {value!r}; a number from 0 to 1 is needed"
                )
    return content


def score_file(
    task: str,
    answers: Path,
    data: Path,
    *,
    protocol: Protocol = "official",
    allow_missing: bool = False,
    grades: Path | Mapping[str, Mapping[str, Any]] | None = None,
    asked: Container[str] | None = None,
) -> Scores:
    """Scores an answer file against a benchmark's files, `grades` being MM-Vet's.

    `asked`: the ids of the questions that were to be answered; others do not count, and the notes say so.
    Raises NotScorableError where only a server or a judge can tell, ValueError or FileNotFoundError, each with one
    line that says what to do.
    """
    module = benchmark(task)
    if protocol not in module.PROTOCOLS:
        raise ValueError(
            f"{task} has no protocol {protocol!r}; it has {', '.join(module.PROTOCOLS)}"
        )
    with _no_collection():
        return _score(task, answers, data, protocol, allow_missing, grades, asked)


def _score(
    task: str,
    answers: Path,
    data: Path,
    protocol: Protocol,
    allow_missing: bool,
    grades: Path | Mapping[str, Mapping[str, Any]] | None,
    asked: Container[str] | None,
) -> Scores:
    pairs, notes = read_pairs(task, answers, data, allow_missing, asked)
    if task == "mmvet" and grades is not None:
        table = read_grades(grades) if isinstance(grades, Path) else grades
        scores = mmvet.score_grades(pairs, table)
    else:
        scores = benchmark(task).score(pairs, protocol)
    scores.notes[:0] = notes
    return scores


def submit_file(
    task: str, answers: Path, data: Path, out: Path, *, allow_missing: bool = False
) -> list[str]:
    """Writes the submission for the benchmark's server or official script to `out`; returns the notes.

    `out` appears whole or not at all; a file is replaced, a folder only if it is an earlier submission.
    Raises as `score_file`.
    """
    if out.is_dir() and any(file.suffix != ".txt" for file in out.iterdir()):
        raise ValueError(f"{out} is a folder with other things in it; name a new file or folder")
    pairs, notes = read_pairs(task, answers, data, allow_missing)
    if task == "vqav2":
        pairs += vqav2.unasked(data, pairs)
    part = out.with_name(f".{out.name}.part")
    try:
        benchmark(task).write_submission(pairs, part)
        if out.is_dir():
            if not part.is_dir():
                raise ValueError(f"{out} is a folder; {task}'s submission is a file: name one")
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)
    return notes


def is_partial(scores: Scores) -> bool:
    """Not every question of the benchmark was asked and answered."""
    return scores.num_missing > 0 or any(note.startswith(PARTIAL) for note in scores.notes)


def write_scores(
    scores: Scores, folder: Path, pictures: Mapping[str, str | None] | None = None
) -> None:
    """`scores.json`, and `samples.jsonl` with a line of evidence for every sample and its picture by question id.

    Both say `partial`, a sample only where it is so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = scores.to_dict()
    partial = is_partial(scores)
    lines = []
    for sample in content.pop("samples"):
        sample["picture"] = (pictures or {}).get(sample["id"])
        lines.append(
            json.dumps(sample | ({"partial": True} if partial else {}), ensure_ascii=False)
        )
    content["partial"] = partial
    replace_file(folder / "samples.jsonl", "".join(f"{line}\n" for line in lines))
    replace_file(folder / "scores.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def replace_file(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all; half of a surrogate pair as JSON's escape for it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    os.replace(part, path)
