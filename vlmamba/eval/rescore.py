"""What `vlmamba score` does: answers of any model against a benchmark's files."""

from pathlib import Path

from vlmamba.eval import manifest
from vlmamba.eval.contents import Contents
from vlmamba.eval.grading import Grading
from vlmamba.eval.outcome import Outcome, conclude
from vlmamba.eval.picture_files import name_pictures
from vlmamba.eval.plan import group_by_picture, with_pictures
from vlmamba.eval.task import Protocol


def score_answers(
    task: str,
    answers: Path,
    data: Path,
    out: Path | None = None,
    *,
    protocol: Protocol = "official",
    allow_missing: bool = False,
    grading: Grading | None = None,
    extra_pictures: Path | None = None,
) -> Outcome:
    """Scores an answer file and keeps the scores in `out`, in the layout of an evaluation (see `runner`).

    Raises as `score_file`, and ValueError where `out` holds the output of a model whose answers these are not.
    """
    if out is None:
        return conclude(
            task,
            answers,
            data,
            None,
            protocol=protocol,
            allow_missing=allow_missing,
            grading=grading,
        )
    before = manifest.read_manifest(out)
    folder = out / task
    model = {"name": str(answers), "fingerprint": None, "dtype": None, "device": None}
    if before is not None and answers.resolve().parent == folder.resolve():
        model = before["model"]  # its own answers, read again by other rules
    elif before is not None and before["model"].get("fingerprint") is not None:
        raise ValueError(f"{out} is the output of {before['model']['name']}: name another folder")
    contents = Contents.read(task, data, extra_pictures)
    shown = with_pictures(contents.questions, contents.files)
    names = name_pictures(group_by_picture(shown, contents.files), folder)
    outcome = conclude(
        task,
        answers,
        data,
        folder,
        protocol=protocol,
        allow_missing=allow_missing,
        grading=grading,
        pictures=names,
    )
    num_missing = outcome.scores.num_missing if outcome.scores else 0
    old = before["tasks"].get(task, {}) if before is not None else {}
    entry = {
        **old,
        **contents.describe(contents.questions),
        "partial": num_missing > 0,
        "protocol": protocol,
        "num_missing": num_missing,
        "answers": manifest.describe_files([answers] if answers.is_file() else answers.glob("*")),
    }
    manifest.write_manifest(out, model, {task: entry})
    return outcome
