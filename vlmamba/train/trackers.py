"""Where figures can be watched while training runs, beside `log.jsonl`: each is imported only when it is asked for."""

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

TrackerName = Literal["tensorboard", "trackio", "wandb"]


class Tracker(Protocol):
    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def show(self, step: int, title: str, text: str) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in `directory`/tensorboard."""

    def __init__(self, directory: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(directory / "tensorboard"))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, title: str, text: str) -> None:
        self.writer.add_text(title, text, step)

    def close(self) -> None:
        self.writer.close()


class Board:
    """Trackio or Weights & Biases, which are called alike; what they ask of the environment is their own."""

    def __init__(self, module: str, directory: Path, config: Mapping[str, Any]) -> None:
        self.board = importlib.import_module(module)
        run = directory.parent.parent.resolve().name  # the output directory's
        self.board.init(project="vlmamba", name=f"{run}/{directory.name}", config=dict(config))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.board.log(dict(figures), step=step)

    def show(self, step: int, title: str, text: str) -> None:
        self.board.log({title: text}, step=step)

    def close(self) -> None:
        self.board.finish()


def open_trackers(
    names: Sequence[str], directory: Path, config: Mapping[str, Any]
) -> list[Tracker]:
    """The trackers of those names; raises ValueError for one that is unknown or not installed."""
    return [_open(name, directory, config) for name in names]


def _open(name: str, directory: Path, config: Mapping[str, Any]) -> Tracker:
    if name not in get_args(TrackerName):
        raise ValueError(
            f"there is no tracker {name!r}: use {', '.join(get_args(TrackerName))}, or none"
        )
    try:
        if name == "tensorboard":
            return TensorBoard(directory)
        return Board(name, directory, json.loads(json.dumps(config, default=str)))
    except ModuleNotFoundError as error:
        raise ValueError(f"{name} is not installed: pip install {name} ({error})") from None
