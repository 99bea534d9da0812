"""`vlmamba train`: a recipe, from its first stage to a model directory."""

from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name: tiny, mini, ...")],
    stage: Annotated[
        str | None, typer.Option(help="The last stage to run (align, finetune); all if left out.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where OUTPUT stopped.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The model directory to write."),
    ] = None,
) -> None:
    """Train a model by a recipe.

    \b
    vlmamba train tiny -o my-model
    vlmamba train mini --stage align --set align.lr=1e-3 -o my-model
    vlmamba train mini --resume -o my-model
    """
    from vlmamba.data.samples import TooManyBadError
    from vlmamba.train import run
    from vlmamba.train.loop import NonFiniteError

    with failing_with(FAILED, (NonFiniteError, TooManyBadError)), failing_with(BAD_USAGE):
        run(recipe, stage, settings or [], resume, dry_run, output)
