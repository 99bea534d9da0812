"""Options that several commands share, spelt and explained once."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, CommandError, failing_with

if TYPE_CHECKING:
    import torch

    from vlmamba.engine import Sampling
    from vlmamba.vlm import VLM

Model = Annotated[
    str | None,
    typer.Option(metavar="DIR_OR_HUB_ID", help="The model; the embedded mini model if left out."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the best there is if left out.")
]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens of the answer at most.")]
Temperature = Annotated[
    float, typer.Option(help="0 takes the likeliest token, always; higher is more daring.")
]
TopP = Annotated[
    float, typer.Option(help="Draw from the likeliest tokens that together have this probability.")
]
Seed = Annotated[
    int | None, typer.Option(help="Draw the same answer again; a new one each time if left out.")
]


class StoredType(str, Enum):
    """What weights can be stored as."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


def stored_type(chosen: StoredType | None) -> "torch.dtype | None":
    """The option as torch takes it."""
    import torch

    return None if chosen is None else getattr(torch, chosen.value)


def check_new(output: Path) -> None:
    """An output that holds something already is bad usage, told before anything is read."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CommandError(
            f"{output} exists already: choose another -o, or remove it first", BAD_USAGE
        )


def sampling(max_new_tokens: int, temperature: float, top_p: float, seed: int | None) -> "Sampling":
    """The options as the engine takes them; a value out of range is bad usage."""
    from vlmamba.engine import Sampling

    with failing_with(BAD_USAGE):
        return Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed
        )


def load(model: str | None, device: str | None) -> "VLM":
    """The model that the options name."""
    from vlmamba import vlm

    with failing_with(BAD_USAGE):
        chosen = vlm.choose_device(device)
    with failing_with(FAILED):
        return vlm.load(model, chosen)
