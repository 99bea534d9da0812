"""The report on one run or several: what is compared, what must be known before comparing, and the tables.

A score over a part of the questions carries a dagger in every cell, its run the word partial in every table.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from vlmamba.eval.paired import Comparison, compare
from vlmamba.eval.paper_table import COLUMNS, ROWS, VL_MAMBA
from vlmamba.eval.runs import Run, why_partial
from vlmamba.eval.score import is_partial
from vlmamba.eval.tables import Table, latex_page, to_markdown
from vlmamba.eval.task import Scores

DAGGER = "†"


@dataclass(frozen=True)
class Report:
    """Runs, the remarks that belong to every output, and the comparison of two runs where it was asked for."""

    runs: list[Run]
    remarks: list[str]
    comparisons: list[Comparison]


def make_report(runs: Sequence[Run], *, diff: bool = False) -> Report:
    """The report on `runs`; with `diff`, the second of the two is compared with the first.

    Raises ValueError where `diff` is wanted of other than two runs, or of runs without a benchmark in common.
    """
    comparisons = []
    if diff:
        if len(runs) != 2:
            raise ValueError(f"a diff compares two runs, not {len(runs)}; name two folders")
        before, after = runs
        common = [task for task in before.scores if task in after.scores]
        if not common:
            raise ValueError(f"{before.name} and {after.name} have no benchmark in common")
        comparisons = [compare(before.scores[task], after.scores[task]) for task in common]
    return Report(list(runs), _partial_remarks(runs) + _mixed_remarks(runs), comparisons)


def tasks_of(runs: Sequence[Run]) -> list[str]:
    """The benchmarks that any run has, in the table's order."""
    return [task for task in COLUMNS if any(task in run.scores for run in runs)]


def label(run: Run, task: str | None = None) -> str:
    """The run's name, marked where its score of `task`, or any of its scores, is partial."""
    partial = is_partial(run.scores[task]) if task else run.is_partial
    return f"{run.name} (partial)" if partial else run.name


def _partial_remarks(runs: Sequence[Run]) -> list[str]:
    return [
        f"{DAGGER} {run.name}, {COLUMNS[task]}: partial: {why_partial(scores)}"
        for run in runs
        for task, scores in run.scores.items()
        if is_partial(scores)
    ]


def _mixed_remarks(runs: Sequence[Run]) -> list[str]:
    """What makes scores of one benchmark incomparable: protocol, metric, questions, versions of files and parser."""
    remarks = []
    for task in tasks_of(runs):
        present = [run for run in runs if task in run.scores]
        kinds = {
            "protocols": [run.scores[task].protocol for run in present],
            "metrics": [run.scores[task].metric for run in present],
            "numbers of questions": [f"{run.scores[task].num_questions:,}" for run in present],
            "files": [_short(_hashes(run, task)) for run in present],
            "parsers": [_short(run.asked(task).get("parser_sha256")) for run in present],
        }
        for kind, values in kinds.items():
            if len(set(values) - {""}) > 1:
                named = ", ".join(
                    f"{run.name} {value or 'unknown'}"
                    for run, value in zip(present, values, strict=True)
                )
                remarks.append(f"{COLUMNS[task]}: not comparable, different {kind}: {named}")
        remarks += [
            f"{COLUMNS[task]}: not comparable, {number:,} questions of {run.name} have another prompt or "
            f"correct answer than those of {present[0].name}"
            for run in present[1:]
            for number in [_num_changed_questions(present[0].scores[task], run.scores[task])]
            if number
        ]
    return remarks


def _num_changed_questions(one: Scores, other: Scores) -> int:
    asked = {sample.id: (sample.prompt, sample.gold) for sample in one.samples}
    return sum(
        sample.id in asked and asked[sample.id] != (sample.prompt, sample.gold)
        for sample in other.samples
    )


def _hashes(run: Run, task: str) -> str:
    """One hash of the benchmark's files, by their contents and not their places."""
    files = run.asked(task).get("files")
    known = files.values() if isinstance(files, dict) else []
    hashes = sorted(str(file.get("sha256")) for file in known if isinstance(file, dict))
    return sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def _short(value: object) -> str:
    """The first digits of a hash, as one names a commit; empty for none."""
    return value[:10] if isinstance(value, str) else ""


def _cell(scores: Scores | None) -> str:
    if scores is None:
        return "-"
    return f"{scores.value:.1f}{_dagger(scores)}"


def _dagger(scores: Scores) -> str:
    return DAGGER if is_partial(scores) else ""


def paper_table(runs: Sequence[Run]) -> Table:
    """Table 1 as the paper prints it, and a row for every run."""
    rows = [
        [row.method, row.llm, row.pretraining, row.tuning]
        + [f"{row.scores[task]:.1f}" if task in row.scores else "-" for task in COLUMNS]
        for row in ROWS
    ]
    rows[-1][0] += " (paper)"
    for run in runs:
        cells = [_cell(run.scores.get(task)) for task in COLUMNS]
        rows.append([label(run), "-", "-", "-", *cells])
    return Table(
        "Table 1 of the paper, and these runs",
        ["Method", "LLM", "PT", "IT", *COLUMNS.values()],
        rows,
        "llll" + "r" * len(COLUMNS),
    )


def score_table(runs: Sequence[Run]) -> Table:
    """A row for every score: its interval, the paper's number, how many questions, metric and protocol."""
    rows = [
        [
            COLUMNS[task],
            label(run, task),
            _cell(scores),
            "{:.1f} to {:.1f}".format(*scores.interval),
            f"{VL_MAMBA.scores[task]:.1f}",
            f"{scores.num_questions:,}",
            f"{scores.num_missing:,}",
            scores.metric,
            scores.protocol,
        ]
        for task in tasks_of(runs)
        for run in runs
        if task in run.scores
        for scores in [run.scores[task]]
    ]
    header = ["Benchmark", "Run", "Score", "95 % interval", "VL-Mamba (paper)", "Questions"]
    header += ["Missing", "Metric", "Protocol"]
    return Table("Scores with 95 % bootstrap intervals", header, rows, "llrrrrrll")


def category_tables(runs: Sequence[Run]) -> list[Table]:
    """Each benchmark's tables: those alike in their columns as one, else a row for every entry."""
    tables = []
    for task in tasks_of(runs):
        present = [run for run in runs if task in run.scores]
        groups: dict[tuple[str, ...], list[str]] = {}
        for run in present:
            for name, entries in run.scores[task].tables.items():
                if name not in groups.setdefault(tuple(entries), []):
                    groups[tuple(entries)].append(name)
        lists: dict[tuple[str, str], None] = {}
        for keys, names in groups.items():
            if len(names) > 1 and len(keys) > 1:
                tables.append(_crossed(task, names, keys, present))
            else:
                lists |= dict.fromkeys((name, key) for name in names for key in keys)
        if lists:
            rows = [
                [f"{name}: {key}", *(_entry(run, task, name, key) for run in present)]
                for name, key in lists
            ]
            header = ["Category", *(label(run, task) for run in present)]
            align = "l" + "r" * len(present)
            tables.append(Table(f"{COLUMNS[task]} in detail", header, rows, align))
    return tables


def _crossed(task: str, names: list[str], keys: tuple[str, ...], runs: list[Run]) -> Table:
    rows = [
        [name, label(run, task), *(_entry(run, task, name, key) for key in keys)]
        for name in names
        for run in runs
    ]
    return Table(
        f"{COLUMNS[task]} by category", ["Category", "Run", *keys], rows, "ll" + "r" * len(keys)
    )


def _entry(run: Run, task: str, name: str, key: str) -> str:
    value = run.scores[task].tables.get(name, {}).get(key)
    return "-" if value is None else f"{_figure(value)}{_dagger(run.scores[task])}"


def _figure(value: Any) -> str:
    """Counts as they are, fractions to four digits, percentages to two; [percentage, count] as both."""
    if isinstance(value, list):
        return f"{_figure(value[0])} of {value[1]:,}" if len(value) == 2 else str(value)
    if isinstance(value, float):
        return f"{value:.4f}" if 0 < abs(value) <= 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def diff_table(report: Report) -> Table:
    """The comparison of two runs, with the paired interval of the difference."""
    before, after = report.runs
    rows = [
        [
            COLUMNS[one.task],
            one.metric,
            f"{one.before:.1f}{_dagger(before.scores[one.task])}",
            f"{one.after:.1f}{_dagger(after.scores[one.task])}",
            f"{one.difference:+.2f}",
            "{:+.2f} to {:+.2f}".format(*one.interval),
            f"{len(one.gained):,}",
            f"{len(one.lost):,}",
            f"{len(one.reworded):,}",
            f"{one.num_common:,}",
            f"{one.num_alone:,}",
        ]
        for one in report.comparisons
    ]
    header = ["Benchmark", "Metric", label(before), label(after), "Difference"]
    header += ["paired 95 % interval", "Gained", "Lost", "Reworded", "In both", "In one only"]
    title = f"{after.name} against {before.name}, on the questions of both"
    return Table(title, header, rows, "llrrrrrrrrr")


def changed_table(report: Report, limit: int = 50) -> Table:
    """The first `limit` samples of each benchmark whose score changed; the HTML page shows all."""
    before, after = report.runs
    rows = []
    for one in report.comparisons:
        changed = dict.fromkeys(one.gained, "gained") | dict.fromkeys(one.lost, "lost")
        sides = [
            {sample.id: sample for sample in run.scores[one.task].samples}
            for run in (before, after)
        ]
        for name in [sample for sample in sides[0] if sample in changed][:limit]:
            said = [f"{side[name].parsed} ({side[name].score:g})" for side in sides]
            rows.append([COLUMNS[one.task], name, changed[name], *said, sides[0][name].gold])
    header = ["Benchmark", "Sample", "Change", label(before), label(after), "Gold"]
    title = f"Samples whose score changed (at most {limit} a benchmark)"
    return Table(title, header, rows, "llllll")


def report_tables(report: Report) -> list[Table]:
    """All tables in the order of reading."""
    changes = [diff_table(report), changed_table(report)] if report.comparisons else []
    runs = report.runs
    return [score_table(runs), paper_table(runs), *changes, *category_tables(runs)]


def as_markdown(report: Report) -> str:
    """The report in GitHub's Markdown."""
    remarks = [f"> {remark}\n" for remark in report.remarks]
    notes = [f"- {note}" for note in all_notes(report)]
    tables = [f"{to_markdown(table)}\n" for table in report_tables(report)]
    return "\n".join(["# Benchmarks\n", *remarks, *tables, "## Notes\n", *notes, ""])


def all_notes(report: Report) -> list[str]:
    """The model of each run, and what the scorer noted by run and benchmark."""
    models = [f"{run.name}: the model is {run.model}" for run in report.runs if run.model]
    return models + [
        f"{run.name}, {COLUMNS[task]}: {note}"
        for run in report.runs
        for task, scores in run.scores.items()
        for note in scores.notes
    ]


def as_latex(report: Report) -> str:
    """The report's tables for the booktabs package, remarks first."""
    return latex_page(report.remarks, report_tables(report))


def as_csv(report: Report) -> str:
    """One line for every number, in full precision: scores, category entries, the paper's rows, differences."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = ("run", "benchmark", "protocol", "table", "entry", "value", "low", "high")
    writer.writerow([*columns, "partial", "questions", "missing", "remarks"])
    for run in report.runs:
        for task, scores in run.scores.items():
            head = [run.name, task, scores.protocol]
            remarks = [r for r in report.remarks if f"{COLUMNS[task]}: " in r]
            tail = ["yes" if is_partial(scores) else "no", scores.num_questions]
            tail += [scores.num_missing, "; ".join(remarks)]
            writer.writerow([*head, "score", scores.metric, scores.value, *scores.interval, *tail])
            for table, entries in scores.tables.items():
                for entry, value in entries.items():
                    number = value[0] if isinstance(value, list) else value
                    writer.writerow([*head, table, entry, number, "", "", *tail])
    for one in report.comparisons:
        versus = f"{report.runs[1].name} - {report.runs[0].name}"
        values = [one.metric, one.difference, *one.interval]
        writer.writerow([versus, one.task, "", "difference", *values, "", one.num_common, "", ""])
    for row in ROWS:
        for task, value in row.scores.items():
            name = f"paper: {row.method} ({row.llm})"
            writer.writerow([name, task, "", "Table 1", "", value, "", "", "no", "", "", ""])
    return file.getvalue()


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data."""
    return {
        "remarks": report.remarks,
        "runs": [
            {
                "name": run.name,
                "folder": str(run.folder),
                "partial": run.is_partial,
                "scores": {task: _plain(scores) for task, scores in run.scores.items()},
            }
            for run in report.runs
        ],
        "diff": [vars(one) | {"difference": one.difference} for one in report.comparisons],
        "paper": [vars(row) for row in ROWS],
    }


def _plain(scores: Scores) -> dict[str, Any]:
    content = {name: value for name, value in vars(scores).items() if name != "samples"}
    return content | {"partial": is_partial(scores)}
