"""A bar for every score with its interval, and a mark where the paper's VL-Mamba stands, as one inline SVG.

Benchmarks are of different scales: a bar's length is the share of the scale, 100 for all but MME's 2,000.
"""

import html
from collections.abc import Sequence

from vlmamba.eval.paper_table import COLUMNS, VL_MAMBA
from vlmamba.eval.report import label, tasks_of
from vlmamba.eval.runs import Run
from vlmamba.eval.score import is_partial

FULL_SCALE = {"mme": 2000.0}
_LEFT, _WIDTH, _RIGHT = 76, 400, 72  # of names, bars and numbers, in SVG units
_BAR, _GAP, _TOP = 16, 14, 10


def bar_plot(runs: Sequence[Run]) -> str:
    """The SVG element. Colours are the page's: classes run-0 to run-7, in turn."""
    marks, y = [], _TOP
    for task in tasks_of(runs):
        present = [(number, run) for number, run in enumerate(runs) if task in run.scores]
        height = _BAR * len(present)
        marks.append(
            f'<text class="name" x="{_LEFT - 10}" y="{y + height / 2}">{COLUMNS[task]}</text>'
        )
        for row, (number, run) in enumerate(present):
            marks.append(_bar(number, run, task, y + row * _BAR))
        paper = _x(task, VL_MAMBA.scores[task])
        marks.append(
            f'<path class="paper" d="M{paper:.1f} {y - 3}V{y + height + 3}">'
            f"<title>{COLUMNS[task]}, VL-Mamba in the paper: {VL_MAMBA.scores[task]:.1f}</title></path>"
        )
        y += height + _GAP
    names = ", ".join(label(run) for run in runs)
    grid = "".join(
        f'<path class="grid" d="M{_LEFT + _WIDTH * share / 100} {_TOP - 4}V{y - _GAP + 4}"/>'
        f'<text class="tick" x="{_LEFT + _WIDTH * share / 100}" y="{y + 4}">{share} %</text>'
        for share in range(0, 101, 20)
    )
    return (
        f'<svg class="plot" viewBox="0 0 {_LEFT + _WIDTH + _RIGHT} {y + 14}" role="img" '
        f'aria-label="Scores of {html.escape(names)} as shares of the scale, with 95 % intervals">'
        f"{grid}{''.join(marks)}</svg>"
    )


def _x(task: str, value: float) -> float:
    share = min(max(value / FULL_SCALE.get(task, 100.0), 0.0), 1.0)
    return _LEFT + _WIDTH * share


def _bar(number: int, run: Run, task: str, y: float) -> str:
    scores = run.scores[task]
    end, low, high = (_x(task, value) for value in (scores.value, *scores.interval))
    middle, partial = y + (_BAR - 2) / 2, is_partial(scores)
    title = (
        f"{COLUMNS[task]}, {run.name}: {scores.value:.1f} "
        f"({scores.interval[0]:.1f} to {scores.interval[1]:.1f}){', partial' if partial else ''}"
    )
    return (
        f"<g><title>{html.escape(title)}</title>"
        f'<rect class="bar run-{number % 8}{" partial" if partial else ""}" x="{_LEFT}" y="{y}" '
        f'width="{end - _LEFT:.1f}" height="{_BAR - 2}"/>'
        f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 3}v6M{high:.1f} {middle - 3}v6"/>'
        f'<text class="value" x="{_LEFT + _WIDTH + 10}" y="{middle}">'
        f"{scores.value:.1f}{'†' if partial else ''}</text></g>"
    )
