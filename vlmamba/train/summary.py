"""What is left of a stage for those who come later: `summary.json` and, where matplotlib is, `loss.png`."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vlmamba.train.ranks import Ranks
from vlmamba.train.stages import StageConfig

if TYPE_CHECKING:
    from vlmamba.train.loop import StageResult


def summarise(
    directory: Path,
    stage: StageConfig,
    result: "StageResult",
    trained: Mapping[str, Tensor],
    ranks: Ranks,
) -> None:
    """Writes both into the stage's directory, from its whole log, earlier runs included."""
    log = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    name = ranks.device.type
    if name == "cuda":
        name = torch.cuda.get_device_name(ranks.device)
    summary = {
        "stage": stage.name,
        "steps": result.step,
        "finished": result.finished,
        "tokens": sum(line["tokens"] for line in log),
        "supervised": sum(line["supervised"] for line in log),
        "trained_parameters": sum(parameter.numel() for parameter in trained.values()),
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "processes": ranks.world,
        "device": name,
        "seconds_of_last_run": round(result.seconds, 1),
        "seconds_a_step": round(result.step_seconds, 4) if result.step_seconds > 0 else None,
        **{key: log[-1][key] for key in ("tokens_per_s", "mfu", "memory_gb") if key in log[-1]},
    }
    (directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        plot(log, directory / "loss.png", stage.name)


def plot(log: list[dict], file: Path, title: str) -> None:
    """The loss over the steps, with the rate below it."""
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    steps = [line["step"] for line in log]
    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot(steps, [line["loss"] for line in log])
    above.set(title=title, ylabel="loss")
    below.plot(steps, [line["lr"] for line in log])
    below.set(xlabel="step", ylabel="rate")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(file, dpi=120)
