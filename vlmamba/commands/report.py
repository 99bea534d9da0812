"""`vlmamba report`: runs side by side, as text for people, papers and programs, or as a page with every sample."""

import json
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, CommandError, failing_with
from vlmamba.commands.notes import noted

if TYPE_CHECKING:
    from vlmamba.eval.report import Report


class Format(str, Enum):
    """What a report can be written as."""

    md = "md"
    csv = "csv"
    latex = "latex"
    html = "html"


_BY_SUFFIX = {".md": "md", ".csv": "csv", ".tex": "latex", ".html": "html", ".htm": "html"}


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="What `vlmamba eval`, `score` or `ablate` wrote."),
    ],
    format: Annotated[
        Format | None,
        typer.Option(help="By the ending of FILE if left out, else md.", case_sensitive=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")
    ] = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Compare the second of two runs with the first.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Write the report as JSON.")] = False,
) -> None:
    """Report scores with their intervals beside the paper's, and every sample in a page to search.

    \b
    vlmamba report my-run
    vlmamba report my-run -o report.html
    vlmamba report before after --diff
    """
    from vlmamba.ablation.outcomes import is_ablation
    from vlmamba.eval.report import make_report
    from vlmamba.eval.runs import read_runs
    from vlmamba.eval.score import replace_file

    chosen = _format(format, output, json_output)
    with failing_with(BAD_USAGE):
        if output is not None and (output.is_dir() or not output.parent.is_dir()):
            what = "is a folder" if output.is_dir() else "lies in no folder that exists"
            raise ValueError(f"{output} {what}; name a file")
        if any(map(is_ablation, runs)):
            if len(runs) > 1:
                raise ValueError("ablations are reported alone: name one folder")
            text = _write_ablations(runs[0], chosen)
        else:
            text = _write(make_report(read_runs(runs), diff=diff), chosen)
        if output is not None:
            replace_file(output, _encodable(text, "utf-8"))
    if output is None:
        print(_encodable(text, sys.stdout.encoding), end="")


def _encodable(text: str, encoding: str) -> str:
    """Answers may hold half of a surrogate pair, and a terminal may know few signs: those are written as escapes."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _format(format: Format | None, output: Path | None, json_output: bool) -> str:
    if json_output:
        if format is not None:
            raise CommandError(f"--json and --format {format.value} exclude each other", BAD_USAGE)
        return "json"
    suffix = output.suffix.lower() if output else ""
    chosen = format.value if format else _BY_SUFFIX.get(suffix, "md")
    if chosen == "html" and output is None:
        raise CommandError("a page is written to a file: add -o report.html", BAD_USAGE)
    return chosen


def _write(content: "Report", chosen: str) -> str:
    from vlmamba.eval.report import as_csv, as_json, as_latex, as_markdown

    if chosen == "html":
        from vlmamba.eval.gallery import as_html

        with noted(show=False):  # a picture laid on white is no news here
            return as_html(content)
    if chosen == "json":
        return json.dumps(as_json(content), indent=1) + "\n"
    return {"md": as_markdown, "csv": as_csv, "latex": as_latex}[chosen](content)


def _write_ablations(folder: Path, chosen: str) -> str:
    from vlmamba.ablation import report as reports
    from vlmamba.ablation.outcomes import read_outcomes
    from vlmamba.ablation.page import as_html
    from vlmamba.ablation.rows import TABLES

    report = reports.AblationReport(read_outcomes(folder), list(TABLES.values()))
    if chosen == "json":
        return json.dumps(reports.as_json(report), indent=1) + "\n"
    writers = {"md": reports.as_markdown, "csv": reports.as_csv, "latex": reports.as_latex}
    return (writers | {"html": as_html})[chosen](report)
