"""Options that several commands share, spelt and explained once."""

from typing import TYPE_CHECKING, Annotated

import typer

from vlmamba.commands.failure import BAD_USAGE, FAILED, failing_with

if TYPE_CHECKING:
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
