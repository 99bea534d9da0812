"""`vlmamba data`: what can be done with training data before training."""

import json
from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands import options
from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with
from vlmamba.commands.interrupt import stoppable
from vlmamba.commands.notes import noted

data = typer.Typer(help="Look after training data.")


@data.callback()
def _several() -> None:
    """Look after training data."""  # with a callback, a single command is still named


@data.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .json or .jsonl file in LLaVA's format, or a folder of shards."
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The folder that picture paths start from; none for shards."
        ),
    ] = None,
    limit: Annotated[
        float, typer.Option(help="The share of samples that may be bad, 0 to 1.", min=0, max=1)
    ] = 0.0,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="FAULT", help="Report a fault without minding it; may be repeated."),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of a sample at most.", min=1)] = 2048,
    model: options.Model = None,
    processes: Annotated[int, typer.Option(help="Processes that read; 0: one a core.", min=0)] = 0,
    json_output: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Read a whole data set, decode every picture, and say what is wrong; exits 1 if too much is.

    Tokens are counted as the model counts them. LLaVA's 665K names several samples after one picture: allow
    duplicate-id there.

    \b
    vlmamba data check llava_v1_5_mix665k.json --images playground/data --allow duplicate-id
    vlmamba data check mine.jsonl --images pictures --limit 0.005 --json
    """
    from vlmamba.checkpoints import find_directory
    from vlmamba.data import check as checking
    from vlmamba.data.check_report import as_json, as_text, passes
    from vlmamba.data.sources import open_source
    from vlmamba.processing import Processor
    from vlmamba.vlm import embedded_model

    with (
        failing_with(BAD_USAGE),
        failing_with(FAILED, (RuntimeError, ImportError)),
        noted(show=False),
    ):
        processor = Processor.load(embedded_model() if model is None else find_directory(model))
        source = open_source(file, images)
        with stoppable() as stopped:
            report = checking.check(
                source,
                processor,
                max_length,
                allowed=allow or (),
                processes=processes,
                quiet=json_output,
                stopped=stopped,
            )
    if json_output:
        print(json.dumps(as_json(report, str(file), max_length, limit), indent=1))
    else:
        print(as_text(report, str(file), max_length, limit))
    if not report.complete:
        raise KeyboardInterrupt
    if not passes(report, limit):
        raise typer.Exit(FAILED)
