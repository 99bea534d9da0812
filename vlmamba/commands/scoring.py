"""What `eval` and `score` share: options of scoring, and how results are printed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

if TYPE_CHECKING:
    from vlmamba.eval import task
    from vlmamba.eval.grading import Grading
    from vlmamba.eval.outcome import Outcome

Protocol = Annotated[
    str, typer.Option(help="Whose rules: official, lmms-eval or vlmevalkit, where they differ.")
]
AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Score what is there, and say how much is missing."),
]
Pictures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A further folder to look for pictures in.")
]
Grades = Annotated[
    Path | None, typer.Option(metavar="FILE", help="MM-Vet: grades, {id: {model, content, score}}.")
]
Judge = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="MM-Vet: an OpenAI-compatible endpoint that grades, .../v1; OPENAI_API_KEY is its key.",
    ),
]
JudgeModel = Annotated[str, typer.Option(metavar="NAME", help="MM-Vet: the judge's name.")]
PUBLISHED_JUDGE = "gpt-4-0613"
JudgePrompt = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="MM-Vet: the string `prompt` of mm-vet_evaluator.py, as it is."
    ),
]
JudgeRuns = Annotated[int, typer.Option(help="MM-Vet: how often every answer is graded.")]
JsonOutput = Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")]


def check_protocol(name: str) -> "task.Protocol":
    """The protocol called `name`. Raises ValueError that lists those there are."""
    from vlmamba.eval.task import Protocol

    if name not in get_args(Protocol):
        raise ValueError(f"no protocol {name!r}; there are {', '.join(get_args(Protocol))}")
    return cast("task.Protocol", name)


def check_grading(
    grades: Path | None, judge: str | None, model: str, prompt: Path | None, runs: int
) -> "Grading":
    """Where MM-Vet's grades come from. Raises ValueError or FileNotFoundError for what cannot work."""
    from vlmamba.eval.grading import Grading

    grading = Grading(grades, judge, model, prompt, runs, os.environ.get("OPENAI_API_KEY", ""))
    grading.check()
    return grading


def print_outcomes(outcomes: Sequence["Outcome"], as_json: bool) -> None:
    """A line for every benchmark, and its notes below; or all of it as JSON."""
    if as_json:
        contents = {outcome.task: outcome.to_dict() for outcome in outcomes}
        partial = any(content.get("partial", False) for content in contents.values())
        print(json.dumps({"partial": partial, "tasks": contents}, ensure_ascii=False))
        return
    for outcome in outcomes:
        scores = outcome.scores
        if scores is None:
            print(f"{outcome.task:10} no score: {outcome.why}")
        else:
            low, high = scores.interval
            rules = "" if scores.protocol == "official" else f", rules of {scores.protocol}"
            print(
                f"{outcome.task:10} {scores.value:8.2f}  [{low:.2f}, {high:.2f}]  {scores.metric}{rules}"
            )
            for note in scores.notes:
                print(f"{'':10} {note}")
        if outcome.submission is not None:
            print(f"{'':10} to submit: {outcome.submission}")
