"""Every row's difference from its table's first row, with its interval, as one SVG that needs nothing else."""

import html
import math

from vlmamba.ablation.report import ALL, AblationReport, Figure
from vlmamba.ablation.rows import Ablation

_LEFT, _WIDTH, _RIGHT, _LINE, _TOP = 330, 360, 110, 22, 20  # SVG units
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.head{font-weight:600}.value{text-anchor:end}"
    ".tick{text-anchor:middle;font-size:11px}.zero{stroke:#888;stroke-width:1.2}.grid{stroke:#ddd}"
    ".whisker{stroke:#2563a8;stroke-width:2}.dot{fill:#2563a8}"
)


def forest_plot(report: AblationReport) -> str:
    """The SVG: a line for every row and base, in points of the mean over all sets and over each kind of sets."""
    lines = [entry for table in report.tables for entry in _lines(report, table)]
    figures = [figure for _, figure in lines if figure is not None]
    reach = max((abs(f.value) + f.half for f in figures), default=1.0)
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if reach / s <= 5 or s == 50)
    reach = step * max(1, math.ceil(reach / step))
    bottom = _TOP + _LINE * len(lines)
    marks = [
        _grid(step * k, reach, bottom) for k in range(-round(reach / step), round(reach / step) + 1)
    ]
    for number, (words, figure) in enumerate(lines):
        y = _TOP + _LINE * (number + 0.5)
        kind = "head" if figure is None else "name"
        marks.append(f'<text class="{kind}" x="8" y="{y + 4}">{html.escape(words)}</text>')
        if figure is not None:
            marks.append(_whisker(figure, reach, y))
    size = f"{_LEFT + _WIDTH + _RIGHT} {bottom + 28}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" '
        f'aria-label="Differences in points with 95 % intervals"><style>{_STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(marks)}</svg>\n'
    )


def _lines(report: AblationReport, table: Ablation) -> list[tuple[str, Figure | None]]:
    """A heading for each base, and below it what each row gains over it: overall and by kind of question."""
    lines: list[tuple[str, Figure | None]] = []
    for base in table.bases:
        rows = []
        for row in table.rows:
            for group, sets in report.groups.items():
                figure = None
                if row.variant != base and (group == ALL or len(sets) > 1):
                    figure = report.figure(row.variant, group, base)
                if figure is not None:
                    words = row.label if group == ALL else f"\u2003{group}"
                    rows.append((words, figure))
        if rows:
            lines += [(f"Table {table.number}: gained over {table.label(base)}", None), *rows]
    return lines


def _x(value: float, reach: float) -> float:
    return _LEFT + _WIDTH * (value / reach + 1) / 2


def _grid(value: float, reach: float, bottom: float) -> str:
    x = _x(value, reach)
    kind = "grid" if abs(value) > 1e-9 else "zero"
    return (
        f'<path class="{kind}" d="M{x:.1f} {_TOP - 6}V{bottom + 4}"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 20}">{value:+.3g}</text>'
    )


def _whisker(figure: Figure, reach: float, y: float) -> str:
    low, middle, high = (
        _x(figure.value + side * figure.half, reach) for side in (-1, 0, 1)
    )  # fmt: skip
    return (
        f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>'
        f'<circle class="dot" cx="{middle:.1f}" cy="{y}" r="4"/>'
        f'<text class="value" x="{_LEFT + _WIDTH + _RIGHT - 6}" y="{y + 4}">{figure.text}</text>'
    )
