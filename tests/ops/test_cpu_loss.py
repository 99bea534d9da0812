"""The CPU's linear layer and cross-entropy in one equals the reference, in whatever blocks it is taken."""

import pytest
import torch
from torch import Tensor

from vlmamba import ops
from vlmamba.ops import cpu, cpu_loss, reference


def arguments(
    t: int, d: int, v: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """x (t, d), weight (v, d) and targets (t,)."""
    g = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, d, generator=g, dtype=torch.float64).to(dtype) for n in (t, v))
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(v, (t,), generator=g)


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("t", [0, 1, 2, 13])
def test_loss_and_gradients_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, t: int, rows: int
) -> None:
    monkeypatch.setattr(cpu_loss, "BLOCK_ELEMENTS", rows * 11)
    x, weight, targets = arguments(t, 5, 11)
    expected, found = (op.linear_cross_entropy(x, weight, targets) for op in (reference, cpu))
    torch.testing.assert_close(found, expected)
    for found_grad, grad in zip(
        torch.autograd.grad(found * 0.3, (x, weight)),
        torch.autograd.grad(expected * 0.3, (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found_grad, grad)
    with torch.no_grad():
        torch.testing.assert_close(cpu.linear_cross_entropy(x, weight, targets), expected)


def test_gradients_match_finite_differences() -> None:
    x, weight, targets = arguments(4, 3, 6)
    assert torch.autograd.gradcheck(
        lambda x, weight: cpu.linear_cross_entropy(x, weight, targets), (x, weight)
    )


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen: int) -> None:
    x, weight, targets = arguments(9, 5, 11)
    expected = torch.autograd.grad(cpu.linear_cross_entropy(x, weight, targets), (x, weight))
    (x, weight)[frozen].requires_grad_(False)
    cpu.linear_cross_entropy(x, weight, targets).backward()
    assert (x, weight)[frozen].grad is None
    torch.testing.assert_close((x, weight)[1 - frozen].grad, expected[1 - frozen])


def test_bfloat16_is_summed_in_float32() -> None:
    x, weight, targets = arguments(40, 64, 30, torch.bfloat16)
    found = cpu.linear_cross_entropy(x, weight, targets)
    expected = reference.linear_cross_entropy(x.float(), weight.float(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    grads = torch.autograd.grad(found, (x, weight))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.bfloat16]
    for grad, right in zip(grads, torch.autograd.grad(expected, (x, weight)), strict=True):
        torch.testing.assert_close(grad, right, rtol=2e-2, atol=2e-2)


def test_large_logits_stay_finite() -> None:
    x, weight, targets = arguments(6, 5, 11, torch.float32)
    found = cpu.linear_cross_entropy(x * 1e3, weight, targets)
    expected = reference.linear_cross_entropy(x * 1e3, weight, targets)
    torch.testing.assert_close(found, expected)
    assert all(g.isfinite().all() for g in torch.autograd.grad(found, (x, weight)))


def test_a_graph_that_is_retained_gives_its_gradient_again() -> None:
    x, weight, targets = arguments(4, 3, 6)
    loss = cpu.linear_cross_entropy(x, weight, targets)
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    kept = [grad.clone() for grad in first]
    for grad in first:
        grad.zero_()
    for again, grad in zip(torch.autograd.grad(loss, (x, weight)), kept, strict=True):
        torch.testing.assert_close(again, grad)


def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, targets = arguments(4, 3, 6)
    with pytest.raises(ValueError, match="targets has shape"):
        ops.linear_cross_entropy(x, weight, targets[:3])
    with pytest.raises(ValueError, match="weight has shape"):
        ops.linear_cross_entropy(x, weight[:, :2], targets)
