"""Random arguments for the ops, and one comparison of a backend with the reference: outputs, states, gradients."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

OPTIONAL = ("D", "z", "dt_bias", "initial_state")


def scan_arguments(
    b: int, l: int, e: int, n: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    """Every tensor argument of `selective_scan`, laid out as the model lays them out: slices of projections."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    z = normal(b, l, 2 * e)[..., e:]
    B, C = normal(b, l, 3 + 2 * n)[..., 3:].split(n, dim=-1)
    return {
        "u": normal(b, l, e),
        "dt": normal(b, l, e),
        "A": -4 * torch.rand(e, n, generator=g, dtype=torch.float64).to(dtype),
        "B": B,
        "C": C,
        "D": normal(e),
        "z": z,
        "dt_bias": normal(e),
        "initial_state": normal(b, e, n),
    }


def conv_arguments(
    b: int, l: int, e: int, k: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    """Every tensor argument of `causal_conv1d`; x is one half of a projection."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    return {
        "x": normal(b, l, 2 * e)[..., :e],
        "weight": normal(e, k),
        "bias": normal(e),
        "initial_state": normal(b, e, k - 1),
    }


def resets(b: int, l: int, seed: int = 0) -> Tensor:
    """About one position in eight, never two rows alike."""
    return torch.rand(b, l, generator=torch.Generator().manual_seed(seed)) < 0.125


def without(arguments: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: t for name, t in arguments.items() if name not in names}


def results(
    op: Callable[..., tuple[Tensor, Tensor]], arguments: Mapping[str, Tensor], **options: object
) -> dict[str, Tensor]:
    """Output, last state, and the gradient of a random function of both in every argument."""
    leaves = {name: t.detach().requires_grad_() for name, t in arguments.items()}
    out, last = op(**leaves, **options)
    g = torch.Generator().manual_seed(99)
    loss = sum(
        # Directions that every dtype can hold, so that runs in different ones differentiate the same function.
        (t * torch.randn(t.shape, generator=g, dtype=torch.float64).bfloat16().to(t)).sum()
        for t in (out, last)
    )
    grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
    named = dict(zip((f"gradient of {name}" for name in leaves), grads, strict=True))
    return {"output": out.detach(), "last state": last.detach(), **named}


def assert_same(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float
) -> None:
    """Every tensor equal up to `tolerance` times the largest number in it, in dtype and shape too."""
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        scale = right.abs().max().item() if right.numel() else 0.0
        torch.testing.assert_close(
            found[name],
            right,
            rtol=0,
            atol=tolerance * max(scale, 1.0),
            msg=lambda text, name=name: f"{name}: {text}",
        )
