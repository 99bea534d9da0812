"""`vlmamba ablate`: the rows of the paper's Tables 2 to 5, trained and examined at small scale."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with
from vlmamba.commands.options import Device


def ablate(
    tables: Annotated[list[str], typer.Argument(metavar="TABLE", help="2, 3, 4, 5 or all.")],
    recipe: Annotated[
        str, typer.Option(help="mini, from picture packs, or tiny, from drawn pictures alone.")
    ] = "mini",
    seeds: Annotated[int, typer.Option(help="Runs of every row.")] = 3,
    limit: Annotated[int, typer.Option(help="Questions of a set at most.")] = 1000,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    device: Device = None,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no run that would end later than this.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")
    ] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Parts, runs and the report.")
    ] = Path("runs/ablation"),
    json_output: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Train and examine the rows of the paper's Tables 2 to 5, several times each, on equal data and steps.

    \b
    vlmamba ablate 4 --recipe tiny -o my-ablation
    vlmamba ablate all --set packs=packs -o my-ablation
    vlmamba report my-ablation --format latex

    Finished runs are kept, so the same command goes on where it stopped; on several GPUs, start it once for each.
    """
    from vlmamba.ablation import report as reports
    from vlmamba.ablation.plot import forest_plot
    from vlmamba.ablation.runner import describe, run
    from vlmamba.eval.score import replace_file
    from vlmamba.train.loop import NonFiniteError

    chosen = settings or []
    if dry_run:
        with failing_with(BAD_USAGE):
            print(describe(tables, recipe, chosen, seeds))
        return
    with failing_with(FAILED, (NonFiniteError,)), failing_with(BAD_USAGE):
        outcomes, shown, complete = run(
            tables, recipe, output, chosen,
            seeds=seeds, limit=limit, device=device, minutes=minutes,
        )  # fmt: skip
    report = reports.AblationReport(outcomes, shown)
    replace_file(output / "report.md", reports.as_markdown(report))
    replace_file(output / "report.tex", reports.as_latex(report))
    replace_file(output / "report.csv", reports.as_csv(report))
    replace_file(output / "report.svg", forest_plot(report))
    print(json.dumps(reports.as_json(report)) if json_output else reports.as_markdown(report))
    if not complete:
        print(f"not all runs are made: the same command with -o {output} goes on", file=sys.stderr)
