"""The ablations as one HTML file that needs nothing else."""

import html
from importlib.resources import files

from vlmamba.ablation.plot import forest_plot
from vlmamba.ablation.report import AblationReport, report_tables
from vlmamba.eval.tables import to_html


def as_html(report: AblationReport) -> str:
    """The page: remarks, the plot, the tables, in the style of the benchmarks' page."""
    css = (files("vlmamba.eval") / "page" / "gallery.css").read_text("utf-8")
    remarks = "".join(f"<li>{html.escape(remark)}</li>" for remark in report.remarks)
    tables = "\n".join(map(to_html, report_tables(report)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Ablations</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{css}</style></head><body><main><h1>Ablations</h1>"
        f'<ul class="remarks">{remarks}</ul><figure>{forest_plot(report)}</figure>\n{tables}'
        "</main></body></html>\n"
    )
