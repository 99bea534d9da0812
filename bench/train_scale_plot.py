"""Draws the record of `bench/train_scale.py`: how fast each variant is, and its memory beside what was told of it; of a
variant that was run more than once the last time.

python bench/train_scale_plot.py [--record results/train_scale.json] [--out docs/train_scale.svg]
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "train_scale"  # the same file every time
import matplotlib.pyplot as plt  # noqa: E402

COLOURS = {"align": "#4059ad", "finetune": "#0b6e4f"}


def name(row: dict) -> str:
    rows, length = row["rows"]
    form = "one GPU" if row["form"] == "one" else f"{row['processes']} GPUs, {row['form']}"
    eight = ", 8 bits" if row["optimizer"] == "adamw8bit" else ""
    return f"{row['stage']}, {row['layout']} {rows} x {length}, {row['recompute']}{eight}, {form}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/train_scale.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/train_scale.svg"))
    arguments = parser.parse_args()
    runs = json.loads(arguments.record.read_text())["runs"]
    found = (row for run in runs for row in run["variants"] if "out of memory" not in row)
    rows = list({name(row): row for row in found}.values())
    untimed = [row for run in runs if run.get("gpu shared") for row in run["variants"]]
    rows.sort(key=lambda row: (row["stage"], row["processes"], row["layout"]), reverse=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 0.36 * len(rows) + 1), sharey=True)
    for at, row in enumerate(rows):
        colour = COLOURS[row["stage"]]
        told = row["gigabytes expected"]
        bars = [(right, row["gigabytes"], told)]
        if row not in untimed:
            bars.append((left, row["tokens a second"] / row["processes"] / 1e3, 0.0))
        for axes, value, mark in bars:
            axes.barh(at, value, 0.7, color=colour)
            axes.text(max(value, mark), at, f"  {value:.1f}", va="center", fontsize=8)
        right.plot([told, told], [at - 0.42, at + 0.42], color="black", linewidth=1.5)
    left.set_yticks(range(len(rows)), [name(row) for row in rows], fontsize=8)
    left.set_title("thousand tokens a second and GPU", fontsize=9)
    right.set_title("GB of a GPU (line: told beforehand)", fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.12)
    figure.tight_layout()
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
