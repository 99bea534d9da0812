"""`vlmamba score`: the scores of an answer file, of any model."""

from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with
from vlmamba.commands.scoring import (
    PUBLISHED_JUDGE,
    AllowMissing,
    Grades,
    JsonOutput,
    Judge,
    JudgeModel,
    JudgePrompt,
    JudgeRuns,
    Pictures,
    Protocol,
    check_grading,
    check_protocol,
    print_outcomes,
)


def score(
    task: Annotated[str, typer.Argument(help="pope, mme, vqav2, ...")],
    answers: Annotated[
        Path, typer.Option(metavar="FILE", help="LLaVA's JSON lines, a submission, or ours.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The benchmark's files, or a folder of all of them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Keep scores and evidence there."),
    ] = None,
    protocol: Protocol = "official",
    allow_missing: AllowMissing = False,
    pictures: Pictures = None,
    grades: Grades = None,
    judge: Judge = None,
    judge_model: JudgeModel = PUBLISHED_JUDGE,
    judge_prompt: JudgePrompt = None,
    judge_runs: JudgeRuns = 1,
    json_output: JsonOutput = False,
) -> None:
    """Score answers to a benchmark as its own evaluator does.

    \b
    vlmamba score pope --answers llava-v1.5-13b.jsonl --data eval
    vlmamba score mmvet --answers a.jsonl --data mm-vet --grades grades.json -o results
    """
    from vlmamba.eval.rescore import score_answers

    with failing_with(BAD_USAGE), failing_with(FAILED, (ConnectionError, ImportError)):
        grading = check_grading(grades, judge, judge_model, judge_prompt, judge_runs)
        outcome = score_answers(
            task,
            answers,
            data,
            output,
            protocol=check_protocol(protocol),
            allow_missing=allow_missing,
            grading=grading,
            extra_pictures=pictures,
        )
    print_outcomes([outcome], json_output)
