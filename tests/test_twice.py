"""A function that is computed once more in the backward pass."""

import pytest
import torch
from torch import nn

from vlmamba.twice import twice


class Seen:
    """A product, and with what it was called."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.linear = nn.Linear(5, 3)
        self.calls: list[tuple[bool, torch.dtype]] = []

    def __call__(self, x, factor):
        y = self.linear(x) * factor
        self.calls.append((torch.is_grad_enabled(), y.dtype))
        return y.float()


@pytest.mark.parametrize("rounded", [False, True])
def test_gradients_are_those_of_once(rounded):
    x = torch.randn(4, 5, requires_grad=True)
    found = []
    for call in (lambda f, *a: f(*a), twice):
        function = Seen()
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            y = call(function, x, 2.0)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, function.linear.weight.grad, function.linear.bias.grad))
        x.grad = None
    for once, again in zip(*found, strict=True):
        assert torch.equal(once, again)
    dtype = torch.bfloat16 if rounded else torch.float32
    assert function.calls == [(False, dtype), (True, dtype)]


def test_gradients_add_up_and_cannot_be_asked_for():
    x, function = torch.randn(4, 5, requires_grad=True), Seen()
    for _ in range(2):
        twice(function, x, 1.0).sum().backward()
    assert torch.allclose(function.linear.weight.grad, 2 * x.detach().sum(0).expand(3, 5))
    with pytest.raises(RuntimeError, match=r"call backward\(\) without inputs"):
        torch.autograd.grad(twice(function, x, 1.0).sum(), [x])
