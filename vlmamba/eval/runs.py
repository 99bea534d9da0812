"""What a run left behind: scores.json and samples.jsonl in `OUT/<task>`, and `OUT/manifest.json` if it is there."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from vlmamba.eval.reading import get, get_strings, read_json, read_json_lines
from vlmamba.eval.score import PARTIAL, is_partial
from vlmamba.eval.task import Protocol, Sample, Scores
from vlmamba.eval.tasks import NAMES


@dataclass(frozen=True)
class Run:
    """The scores of one run by task, in the order of the paper's table."""

    name: str
    folder: Path
    scores: dict[str, Scores]
    pictures: dict[str, dict[str, Path]]  # by task and sample
    manifest: dict[str, Any]

    def asked(self, task: str) -> dict[str, Any]:
        """What the manifest says of a task; empty where it says nothing."""
        tasks = self.manifest.get("tasks")
        entry = tasks.get(task) if isinstance(tasks, dict) else None
        return entry if isinstance(entry, dict) else {}

    @property
    def model(self) -> str:
        """The name of the model, or of the answer file, by the manifest; empty where it says nothing."""
        model = self.manifest.get("model")
        name = model.get("name") if isinstance(model, dict) else None
        return Path(name).name if isinstance(name, str) else ""

    @property
    def is_partial(self) -> bool:
        """Whether any of its scores is over a part of the questions."""
        return any(map(is_partial, self.scores.values()))


def why_partial(scores: Scores) -> str:
    """One phrase for readers of a report."""
    noted = [note[len(PARTIAL) :].lstrip(": ") for note in scores.notes if note.startswith(PARTIAL)]
    return (
        "; ".join(noted)
        or f"{scores.num_missing:,} of {scores.num_questions:,} questions have no answer"
    )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, under names that differ.

    Raises FileNotFoundError for a folder without scores and ValueError for files that hold none, or a folder twice.
    """
    resolved = [folder.resolve() for folder in folders]
    for folder, path in zip(folders, resolved, strict=True):
        if resolved.count(path) > 1:
            raise ValueError(f"{folder} is named twice; name every run once")
    return [
        _read_run(folder, name) for folder, name in zip(folders, _names_of(resolved), strict=True)
    ]


def _names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    depth = 1
    names = [path.name for path in paths]
    while len(set(names)) < len(names):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    return names


def _read_run(folder: Path, name: str) -> Run:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; name what `vlmamba eval` or `score` wrote")
    tasks = [task for task in NAMES if (folder / task / "scores.json").exists()]
    if not tasks:
        inside = folder / "scores.json"
        hint = (
            f"name the folder above it, {os.path.normpath(folder / '..')}"
            if inside.exists()
            else "make them with `vlmamba eval` or `vlmamba score`"
        )
        raise FileNotFoundError(f"{folder}: no scores ({folder}/<task>/scores.json); {hint}")
    manifest = folder / "manifest.json"
    content = read_json(manifest) if manifest.exists() else {}
    if not isinstance(content, dict):
        raise ValueError(f"{manifest}: an object is needed, not {content!r:.60}")
    scores, pictures = {}, {}
    for task in tasks:
        evidence = list(_read_evidence(folder / task / "samples.jsonl"))
        scores[task] = _read_scores(folder / task / "scores.json", task, [s for s, _ in evidence])
        pictures[task] = {sample.id: picture for sample, picture in evidence if picture}
    return Run(name, folder, scores, pictures, content)


def _number(record: dict[str, Any], key: str, place: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{place}: {key} must be a number, not {value!r:.60}")
    return value


def _read_scores(path: Path, task: str, samples: list[Sample]) -> Scores:
    place, record = str(path), read_json(path)
    if get(record, "task", place, str) != task:
        raise ValueError(f"{place}: the scores of {record['task']}, not of {task}")
    interval = get(record, "interval", place, list)
    if len(interval) != 2:
        raise ValueError(f"{place}: interval must hold two numbers, not {interval!r:.60}")
    ends = {"low": interval[0], "high": interval[1]}
    tables = get(record, "tables", place, dict)
    if not all(isinstance(entries, dict) for entries in tables.values()):
        raise ValueError(f"{place}: tables must hold objects; score {task} again")
    notes = get_strings(record, "notes", place)
    num_missing = get(record, "num_missing", place, int)
    if record.get("partial") and not num_missing and not any(n.startswith(PARTIAL) for n in notes):
        notes = [f"{PARTIAL}: not all questions were asked", *notes]
    return Scores(
        task,
        cast(Protocol, get(record, "protocol", place, str)),
        get(record, "metric", place, str),
        _number(record, "value", place),
        (_number(ends, "low", place), _number(ends, "high", place)),
        tables,
        samples,
        get(record, "num_questions", place, int),
        num_missing,
        notes,
    )


def _read_evidence(path: Path) -> Iterator[tuple[Sample, Path | None]]:
    """Each sample with its picture, if it has one."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; score {path.parent.name} again")
    for place, record in read_json_lines(path):
        picture = record.get("picture")
        if picture is not None and not isinstance(picture, str):
            raise ValueError(f"{place}: picture must be a path or null, not {picture!r:.60}")
        yield _read_sample(place, record), path.parent / picture if picture else None


def _read_sample(place: str, record: dict[str, Any]) -> Sample:
    names = ("id", "category", "prompt", "parsed", "gold", "rule")
    texts = {name: get(record, name, place, str) for name in names}
    raw = record.get("raw")
    if raw is not None and not isinstance(raw, str):
        raise ValueError(f"{place}: raw must be a string or null, not {raw!r:.60}")
    return Sample(raw=raw, score=_number(record, "score", place), **texts)
