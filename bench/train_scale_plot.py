"""Draws the record of `bench/train_scale.py` on several GPUs: speed beside that of one, memory beside what was told.

python bench/train_scale_plot.py [--record results/train_scale_2.json] [--out docs/train_scale.svg]
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "train_scale"  # the same file every time
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

COLOURS = {"one": "#999999", "ddp": "#0b6e4f", "fsdp": "#4059ad", "fsdp-grad-op": "#c1666b"}
WIDTH = 0.2


def speed(axes: Axes, rows: dict[tuple[str, str], dict], stages: list[str]) -> None:
    """Tokens a second as a multiple of one GPU's."""
    for at, stage in enumerate(stages):
        alone = rows[stage, "one"]["tokens a second"]
        for number, (form, colour) in enumerate(COLOURS.items()):
            ratio = rows[stage, form]["tokens a second"] / alone
            x = at + (number - 1.5) * WIDTH
            axes.bar(x, ratio, WIDTH, color=colour, label=form if at == 0 else None)
            axes.text(x, ratio, f"{ratio:.2f}", ha="center", va="bottom", fontsize=8)
    most = max(row["processes"] for row in rows.values())
    axes.axhline(most, color="#444444", linestyle="dashed", linewidth=1)
    axes.set_title(f"speed on {most} GPUs, of one GPU's")
    axes.set_ylim(0, most * 1.12)


def room(axes: Axes, rows: dict[tuple[str, str], dict], stages: list[str]) -> None:
    """Gigabytes of a GPU; a line where the formula told them."""
    for at, stage in enumerate(stages):
        for number, (form, colour) in enumerate(COLOURS.items()):
            row, x = rows[stage, form], at + (number - 1.5) * WIDTH
            axes.bar(x, row["gigabytes"], WIDTH, color=colour)
            told = row["gigabytes expected"]
            axes.plot([x - WIDTH / 2, x + WIDTH / 2], [told, told], color="black", linewidth=1.5)
    axes.set_title("memory a GPU, GB (line: told beforehand)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, default=Path("results/train_scale_2.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/train_scale.svg"))
    arguments = parser.parse_args()
    rows: dict[tuple[str, str], dict] = {}
    for row in json.loads(arguments.record.read_text())["variants"]:
        rows.setdefault((row["stage"], row["form"]), row)  # the first of each: the recipe's
    stages = sorted({stage for stage, _ in rows})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    speed(left, rows, stages)
    room(right, rows, stages)
    for axes in (left, right):
        axes.set_xticks(range(len(stages)), stages)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.savefig(arguments.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
