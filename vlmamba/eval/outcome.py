"""The end of a benchmark: from an answer file to the scores, the evidence and the submission in its folder."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmamba.eval.grading import Grading
from vlmamba.eval.score import is_partial, read_pairs, score_file, submit_file, write_scores
from vlmamba.eval.task import NotScorableError, Protocol, Scores

_SUBMISSIONS = {"mme": "", "mmbench": ".xlsx", "pope": ".jsonl", "seed": ".jsonl"}


@dataclass(frozen=True)
class Outcome:
    """The scores, or why there are none, and where the submission lies."""

    task: str
    scores: Scores | None
    why: str = ""
    submission: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as plain data for JSON."""
        content: dict[str, Any] = {"task": self.task, "value": None, "why": self.why}
        if self.scores is not None:
            content = self.scores.to_dict()
            del content["samples"]
            content["partial"] = is_partial(self.scores)
        return content | {"submission": self.submission and str(self.submission)}


def conclude(
    task: str,
    answers: Path,
    data: Path,
    folder: Path | None,
    *,
    protocol: Protocol = "official",
    allow_missing: bool = False,
    grading: Grading | None = None,
    asked: Container[str] | None = None,
    pictures: Mapping[str, str | None] | None = None,
) -> Outcome:
    """Scores an answer file and, where a folder is given, writes scores.json, samples.jsonl and submission.* there.

    `asked`: the ids of the questions of a limited run. Answers that cannot be scored here leave a submission alone, or,
    without a folder, raise NotScorableError. Raises as `score_file`; ConnectionError where a judge cannot be reached.
    """
    why, scores = "", None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        grades = None
        if task == "mmvet":
            pairs, _ = read_pairs(task, answers, data, allow_missing, asked)
            grades = (grading or Grading()).table(pairs, folder and folder / "grades.json")
        scores = score_file(
            task,
            answers,
            data,
            protocol=protocol,
            allow_missing=allow_missing,
            grades=grades,
            asked=asked,
        )
    except NotScorableError as reason:
        if folder is None:
            raise
        why = str(reason)
    if folder is None:
        return Outcome(task, scores, why)
    partial = asked is not None or (scores is not None and is_partial(scores))
    for name in ("scores.json", "samples.jsonl"):
        (folder / name).unlink(missing_ok=True)
    if scores is not None:
        write_scores(scores, folder, pictures)
    suffix = _SUBMISSIONS.get(task, ".json")
    submission = folder / f"submission{'.partial' if partial else ''}{suffix}"
    submit_file(task, answers, data, submission, allow_missing=allow_missing or partial)
    return Outcome(task, scores, why, submission)
