"""Draws the time against the length from the record of `bench/gpu_model.py`.

    python bench/gpu_model_plot.py [--record results/gpu_model.json] [--out docs/gpu_model.svg]

Left: reading a prompt, in milliseconds, at two batch sizes. Right: tokens a second in training, at 8,192 tokens a step,
of our ways to recompute the fastest.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "gpu_model"  # the same file every time
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

SIDES = {
    "ours": ("vlmamba", "#0b6e4f"),
    "eager": ("Transformer, eager", "#c1666b"),
    "compiled": ("Transformer, torch.compile", "#4059ad"),
}
BATCHES = {1: "-", 8: "--"}


def line(
    axes: Axes, rows: list[dict], side: str, value: Callable[[dict], float], style: str, note: str
) -> None:
    """A side's value over the length, where it was timed; the fastest row of each length."""
    timed = [row for row in rows if row["side"] == side and row["ms"]]
    fastest = {row["l"]: row for row in sorted(timed, key=lambda row: -row["ms"])}
    if fastest:
        name, colour = SIDES[side]
        lengths = sorted(fastest)
        values = [value(fastest[length]) for length in lengths]
        axes.plot(lengths, values, style, marker="o", ms=4, color=colour, label=name + note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/gpu_model.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/gpu_model.svg"))
    arguments = parser.parse_args()
    runs = json.loads(arguments.record.read_text())["runs"]
    rows = [row for run in runs for row in run["rows"]]
    prompts = [row for row in rows if row["what"] == "prefill"]
    steps = [row for row in rows if row["what"] == "train"]
    figure, (reading, training) = plt.subplots(1, 2, figsize=(10, 4))
    for side in SIDES:
        for batch, style in BATCHES.items():
            some = [row for row in prompts if row["b"] == batch]
            line(reading, some, side, lambda row: row["ms"], style, f", batch {batch}")
        line(training, steps, side, lambda row: row["b"] * row["l"] / row["ms"], "-", "")
    reading.set(title="reading a prompt, ms", yscale="log")
    reading.set_yticks([10, 30, 100, 300, 1000], ["10", "30", "100", "300", "1,000"])
    training.set(title="training, thousand tokens a second", ylim=0)
    for axes, shown in ((reading, prompts), (training, steps)):
        lengths = sorted({row["l"] for row in shown if row["ms"]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths], rotation=40, fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("positions", fontsize=8)
        axes.title.set_fontsize(9)
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#ddd")
    figure.tight_layout()
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
