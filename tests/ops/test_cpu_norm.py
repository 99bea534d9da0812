"""The CPU's residual add and norm in one equals the reference, with every gradient."""

import pytest
import torch
from torch import Tensor

from vlmamba.ops import cpu, reference

EPS = 1e-3
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


def arguments(shape: tuple[int, ...], residual: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"hidden": shape, "residual": shape, "weight": shape[-1:]}
    made = {k: torch.randn(s, generator=g, dtype=F64) for k, s in shapes.items()}
    made["hidden"] = made["hidden"].to(dtype)  # the others are float32 at least, as in the model
    wide = reference.scan_dtype(dtype)
    made |= {k: made[k].to(wide) for k in ("residual", "weight")}
    return {k: t.requires_grad_() for k, t in made.items() if residual or k != "residual"}


def results(op, given: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Both outputs, then the gradients of a random function of both."""
    outputs = op(given["hidden"], given.get("residual"), given["weight"], EPS, dtype)
    g = torch.Generator().manual_seed(1)
    seeds = [torch.randn(t.shape, generator=g, dtype=F64).to(t.dtype) for t in outputs]
    return [*outputs, *torch.autograd.grad(outputs, list(given.values()), seeds)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5,), (2, 3, 7), (0, 4), (63, 129)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-12), (F32, 1e-5), (BF16, 2e-2)])
def test_sum_norm_and_gradients_equal_the_reference(
    shape: tuple[int, ...], residual: bool, dtype: torch.dtype, tolerance: float
) -> None:
    given = arguments(shape, residual, dtype)
    found = results(cpu.add_rms_norm, given, dtype)
    expected = results(reference.add_rms_norm, given, dtype)
    for ours, right in zip(found, expected, strict=True):
        scale = right.abs().max().item() if right.numel() else 0.0
        torch.testing.assert_close(ours, right, rtol=0, atol=tolerance * max(scale, 1.0))
    with torch.no_grad():
        alone = cpu.add_rms_norm(
            given["hidden"], given.get("residual"), given["weight"], EPS, dtype
        )
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=False))


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_match_finite_differences(residual: bool) -> None:
    given = arguments((2, 3, 5), residual, F64)

    def norm(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(given, tensors, strict=True))
        return cpu.add_rms_norm(named["hidden"], named.get("residual"), named["weight"], EPS, F64)

    assert torch.autograd.gradcheck(norm, list(given.values()))


def test_autocast_changes_nothing() -> None:
    given = arguments((4, 24), True, F32)
    expected = results(cpu.add_rms_norm, given, F32)
    with torch.autocast("cpu", BF16):
        found = results(cpu.add_rms_norm, given, F32)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
