"""Draws the time against the length from the record of `bench/gpu_model.py`.

    python bench/gpu_model_plot.py [--record results/gpu_model.json] [--out docs/gpu_model.svg]

Left: reading a prompt, in milliseconds, at two batch sizes. Right: tokens a second in training, at 8,192 tokens a step.
"""

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

COLOURS = {"ours": "#0b6e4f", "eager": "#c1666b", "compiled": "#4059ad"}
NAMES = {"ours": "vlmamba", "eager": "Transformer, eager", "compiled": "Transformer, torch.compile"}
WIDTH, HEIGHT, LEFT, TOP, GAP, BOTTOM = 330, 260, 64, 34, 84, 56
Points = list[tuple[float, float]]


def best(
    rows: list[dict], what: str, batch: int | None, value: Callable[[dict], float]
) -> dict[str, Points]:
    """For each side its values over the length; of our ways to recompute the fastest."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row["ms"] or math.inf, reverse=True):
        if row["what"] == what and row["ms"] and batch in (None, row["b"]):
            found[row["side"]][row["l"]] = value(row)
    return {side: sorted(points.items()) for side, points in found.items()}


class Panel:
    """Lines over a logarithmic length."""

    def __init__(self, left: float, title: str, log: bool, points: Points) -> None:
        self.left, self.log = left, log
        xs, ys = zip(*points, strict=True)
        self.xs = min(xs), max(xs)
        self.ys = (min(ys) / 1.3, max(ys) * 1.3) if log else (0.0, max(ys) * 1.1)
        self.marks = [f'<text x="{left}" y="{TOP - 14}" class="title">{title}</text>']
        self._axes(sorted(set(xs)))

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = math.log(x / self.xs[0]) / max(math.log(self.xs[1] / self.xs[0]), 1e-9)
        low, high = self.ys
        up = math.log(y / low) / math.log(high / low) if self.log else (y - low) / (high - low)
        return self.left + across * WIDTH, TOP + (1 - up) * HEIGHT

    def _axes(self, lengths: list[float]) -> None:
        bottom = TOP + HEIGHT
        self.marks.append(f'<path class="axis" d="M{self.left} {TOP}V{bottom}h{WIDTH}"/>')
        for length in lengths:
            x, _ = self.at(length, self.ys[1])
            self.marks.append(
                f'<text class="x" transform="translate({x:.0f} {bottom + 12}) rotate(-40)">{length:,}</text>'
            )
        for y in self._ticks():
            _, at = self.at(self.xs[0], y)
            self.marks.append(
                f'<path class="grid" d="M{self.left} {at:.1f}h{WIDTH}"/>'
                f'<text class="y" x="{self.left - 6}" y="{at + 4:.1f}">{y:,.0f}</text>'
            )

    def _ticks(self) -> list[float]:
        low, high = self.ys
        if self.log:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            return [m * 10.0**p for p in powers for m in (1, 3) if low <= m * 10.0**p <= high]
        step = 10 ** math.floor(math.log10(high))
        step = step if high / step >= 3 else step / 2
        return [step * i for i in range(int(high / step) + 1)]

    def line(self, side: str, points: Points, dashed: bool) -> None:
        places = [self.at(x, y) for x, y in points]
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        colour = COLOURS[side]
        self.marks.append(
            f'<path fill="none" stroke="{colour}" stroke-width="2"{dash} d="M{path}"/>'
        )
        self.marks += [
            f'<circle fill="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        ]


def draw(rows: list[dict]) -> str:
    second = LEFT + WIDTH + GAP
    batches = {b: best(rows, "prefill", b, lambda row: row["ms"]) for b in (1, 8)}
    training = best(rows, "train", None, lambda row: 1e3 * row["b"] * row["l"] / row["ms"])
    every = [p for sides in batches.values() for points in sides.values() for p in points]
    reading = Panel(LEFT, "reading a prompt, ms (dashed: batch 8)", True, every)
    learning = Panel(second, "training, tokens/s", False, [p for v in training.values() for p in v])
    for batch, sides in batches.items():
        for side, points in sides.items():
            reading.line(side, points, dashed=batch > 1)
    for side, points in training.items():
        learning.line(side, points, dashed=False)
    legend = "".join(
        f'<circle fill="{COLOURS[side]}" cx="{LEFT + 190 * i}" cy="{TOP + HEIGHT + BOTTOM + 6}" r="5"/>'
        f'<text x="{LEFT + 190 * i + 10}" y="{TOP + HEIGHT + BOTTOM + 10}">{NAMES[side]}</text>'
        for i, side in enumerate(NAMES)
    )
    width, height = second + WIDTH + 24, TOP + HEIGHT + BOTTOM + 24
    style = (
        "text{font:12px sans-serif;fill:#222}.title{font-weight:bold}.y{text-anchor:end}.x{text-anchor:end}"
        ".axis{stroke:#444;fill:none}.grid{stroke:#ddd}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(reading.marks + learning.marks)}{legend}</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/gpu_model.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/gpu_model.svg"))
    arguments = parser.parse_args()
    runs = json.loads(arguments.record.read_text())["runs"]
    arguments.out.write_text(draw([row for run in runs for row in run["rows"]]))


if __name__ == "__main__":
    main()
