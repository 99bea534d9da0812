"""`vlmamba eval`: benchmarks, from their files to a model's scores."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands import options
from vlmamba.commands.failure import BAD_USAGE, FAILED, CommandError, failing_with
from vlmamba.commands.notes import noted
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


def evaluate(
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...", help="pope, mme, ...; all for all ten.", show_default=False
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="The benchmark's files, or a folder of all of them.")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Where answers and scores are kept."),
    ],
    model: options.Model = None,
    protocol: Protocol = "official",
    limit: Annotated[
        int | None, typer.Option(help="Ask only so many questions, and mark all results PARTIAL.")
    ] = None,
    allow_missing: AllowMissing = False,
    batch_size: Annotated[int, typer.Option(help="Questions answered together.")] = 16,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of an answer at most; the benchmark's own if left out."),
    ] = None,
    pictures: Pictures = None,
    grades: Grades = None,
    judge: Judge = None,
    judge_model: JudgeModel = PUBLISHED_JUDGE,
    judge_prompt: JudgePrompt = None,
    judge_runs: JudgeRuns = 1,
    device: options.Device = None,
    json_output: JsonOutput = False,
) -> None:
    """Ask a model a benchmark's questions and score its answers; after an interruption the same command goes on.

    \b
    vlmamba eval pope mme --model M --data eval -o results
    vlmamba eval gqa --data gqa -o results --limit 100
    torchrun --nproc-per-node 8 --no-python vlmamba eval vqav2 --model M --data eval -o results
    """
    from vlmamba.eval.processes import Processes
    from vlmamba.eval.tasks import NAMES

    with failing_with(BAD_USAGE):
        processes = Processes.from_environment()
        wanted = NAMES if tasks == ["all"] else tuple(dict.fromkeys(tasks))
        grading = check_grading(grades, judge, judge_model, judge_prompt, judge_runs)
        chosen = check_protocol(protocol)
        from vlmamba.eval.runner import Settings, describe_model, make_plan
        from vlmamba.eval.runner import evaluate as run

        settings = Settings(
            data,
            output,
            chosen,
            limit,
            allow_missing,
            batch_size,
            max_new_tokens,
            pictures,
            grading,
        )
        with failing_with(FAILED, (ImportError,)):
            plans = [make_plan(task, settings) for task in wanted]
    from torch import OutOfMemoryError

    vlm = options.load(model, processes.device(device))
    quiet = json_output or not processes.first
    try:
        with noted(show=processes.first), failing_with(BAD_USAGE):
            with failing_with(FAILED, (ConnectionError, ImportError)):
                described = describe_model(vlm, model)
                outcomes = run(vlm, described, plans, settings, processes, quiet)
    except OutOfMemoryError:
        raise CommandError(
            f"out of memory with {batch_size} questions together: lower --batch-size, with another output folder",
            FAILED,
        ) from None
    except KeyboardInterrupt:
        print(
            f"The answers so far are kept in {output}: the same command goes on.", file=sys.stderr
        )
        raise
    if processes.first:
        print_outcomes(outcomes, json_output)
