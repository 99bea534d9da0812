"""Training: the stages, the loop, its checkpoints, and `run`, which `vlmamba train` calls."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlmamba.train.runner import run as run


def __getattr__(name: str) -> object:
    # `run` needs the recipes, and the recipes need the stages of this package: imported on first use.
    if name == "run":
        from vlmamba.train.runner import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
