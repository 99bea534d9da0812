"""The tables of the ablations beside the paper's: means, intervals, paired differences, set by set.

Every interval is of 95 % and covers both the choice of questions and that of seeds (`eval/intervals.py`).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmamba.ablation.exam import KINDS, kind_of
from vlmamba.ablation.outcomes import Outcomes
from vlmamba.ablation.rows import Ablation, Row
from vlmamba.eval.intervals import repeated_interval
from vlmamba.eval.paper_table import ABLATED, ABLATIONS, COLUMNS
from vlmamba.eval.tables import Table, latex_page, to_markdown

ALL = "all sets"


@dataclass(frozen=True)
class Figure:
    """A mean over seeds, half its interval, and how many seeds there were; of a difference where `base` is named."""

    variant: str
    base: str | None
    group: str
    value: float
    half: float
    seeds: int

    @property
    def text(self) -> str:
        sign = "+" if self.base else ""
        return f"{round(self.value, 1) + 0.0:{sign}.1f} ± {self.half:.1f}"  # never -0.0


class AblationReport:
    """Figures of the tables that have a row with a finished run; others are left out."""

    def __init__(self, outcomes: Outcomes, tables: Sequence[Ablation]) -> None:
        self.outcomes = outcomes
        self.tables = [t for t in tables if any(self.seeds(row.variant) for row in t.rows)]

    def seeds(self, *variants: str) -> list[int]:
        return self.outcomes.seeds(*variants)

    @property
    def groups(self) -> dict[str, list[str]]:
        """What figures are given of: all sets, each kind of sets, each set."""
        sets = list(self.outcomes.sets)
        kinds = {kind: [name for name in sets if kind_of(name) == kind] for kind in KINDS}
        several = {kind: names for kind, names in kinds.items() if len(names) > 1}
        return {ALL: sets} | several | {name: [name] for name in sets}

    def figure(self, variant: str, group: str, base: str | None = None) -> Figure | None:
        """The mean of a group of sets, or what is gained over `base` with the same seeds; None without such runs."""
        seeds = self.seeds(variant) if base is None else self.seeds(variant, base)
        if not seeds:
            return None
        sets = self.groups[group]
        right = self.outcomes.right(variant, seeds, sets)
        if base is not None:
            before = self.outcomes.right(base, seeds, sets)
            right = [new - old for new, old in zip(right, before, strict=True)]
        return Figure(variant, base, group, *repeated_interval(right), len(seeds))

    def figures(self, table: Ablation) -> list[Figure]:
        """All of a table's: of each group its rows' means, then their differences from each base."""
        bases = (None, *table.bases)
        found = [
            self.figure(row.variant, group, base)
            for group in self.groups
            for base in bases
            for row in table.rows
            if row.variant != base
        ]
        return [figure for figure in found if figure is not None]

    @property
    def remarks(self) -> list[str]:
        """What must be known before comparing."""
        asked = sum(self.outcomes.sets.values())
        remarks = [
            f"{asked:,} questions in {len(self.outcomes.sets)} sets; an average counts every set alike. ± is half of a "
            "95 % interval that covers both the choice of questions and that of seeds, which draw the connector and "
            "the order of samples; towers and language models were trained once."
        ]
        variants = {row.variant for table in self.tables for row in table.rows}
        few = sorted(v for v in variants if len(self.seeds(v)) < 3)
        if few:
            remarks.append(f"fewer than three runs of {', '.join(few)}")
        return remarks


def _cell(figure: Figure | None) -> str:
    return figure.text if figure else "-"


def main_table(report: AblationReport, table: Ablation) -> Table:
    """A line for every row: its size, its runs, its mean and its differences, and the paper's figures."""
    header = ["Row", "Connector", "Language model", "Runs", "Mean"]
    header += [f"against {table.label(base)}" for base in table.bases]
    header += [f"{COLUMNS[task]} (paper)" for task in ABLATED]
    rows = [_line(report, table, row) for row in table.rows]
    title = f"Table {table.number}: {table.title}"
    return Table(title, header, rows, "l" + "r" * (len(header) - 1))


def _line(report: AblationReport, table: Ablation, row: Row) -> list[str]:
    parameters = report.outcomes.parameters.get(row.variant, {})
    sizes = [f"{parameters[p]:,}" if parameters else "-" for p in ("connector", "language")]
    figures = [_cell(report.figure(row.variant, ALL))]
    for base in table.bases:
        same = row.variant == base
        figures.append("" if same else _cell(report.figure(row.variant, ALL, base)))
    paper = ABLATIONS[table.number].get(row.paper or "", {})
    printed = [f"{paper[task]:.1f}" if paper else "-" for task in ABLATED]
    return [row.label, *sizes, str(len(report.seeds(row.variant))), *figures, *printed]


def set_table(report: AblationReport, table: Ablation, base: str | None = None) -> Table:
    """A line for every set and kind of sets, a column for every row: means, or differences from `base`."""
    rows = [row for row in table.rows if row.variant != base]
    lines = []
    for group, sets in report.groups.items():
        asked = sum(report.outcomes.sets[name] for name in sets)
        cells = [_cell(report.figure(row.variant, group, base)) for row in rows]
        lines.append([group, f"{asked:,}", *cells])
    what = "set by set" if base is None else f"set by set, against {table.label(base)}"
    header = ["Set", "Questions", *(row.label for row in rows)]
    align = "l" + "r" * (len(header) - 1)
    return Table(f"Table {table.number}, {what}", header, lines, align)


def report_tables(report: AblationReport) -> list[Table]:
    """All tables in the order of reading."""
    tables = []
    for table in report.tables:
        tables += [main_table(report, table), set_table(report, table)]
        tables += [set_table(report, table, base) for base in table.bases]
    return tables


def as_markdown(report: AblationReport) -> str:
    """The tables in GitHub's Markdown."""
    remarks = [f"> {remark}\n" for remark in report.remarks]
    tables = [f"{to_markdown(table)}\n" for table in report_tables(report)]
    return "\n".join(["# Ablations\n", *remarks, *tables])


def as_latex(report: AblationReport) -> str:
    """The tables for the booktabs package, remarks first."""
    return latex_page(report.remarks, report_tables(report))


def as_csv(report: AblationReport) -> str:
    """One line for every number, in full precision: means, differences, the paper's figures."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["table", "row", "against", "set", "value", "low", "high", "runs"])
    for table in report.tables:
        for f in report.figures(table):
            against = table.label(f.base) if f.base else ""
            ends = [f.value - f.half, f.value + f.half]
            head = [table.number, table.label(f.variant), against, f.group]
            writer.writerow([*head, f.value, *ends, f.seeds])
        for name, scores in ABLATIONS[table.number].items():
            for task, value in scores.items():
                writer.writerow([table.number, f"paper: {name}", "", task, value, "", "", ""])
    return file.getvalue()


def as_json(report: AblationReport) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "remarks": report.remarks,
        "plan": report.outcomes.plan,
        "sets": report.outcomes.sets,
        "parameters": report.outcomes.parameters,
        "tables": {
            str(table.number): {
                "title": table.title,
                "rows": {row.variant: row.label for row in table.rows},
                "figures": [vars(figure) for figure in report.figures(table)],
                "paper": ABLATIONS[table.number],
            }
            for table in report.tables
        },
    }
