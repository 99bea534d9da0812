"""A function of one tensor of which nothing is kept for the backward pass: it is computed once more there.

What `torch.utils.checkpoint` does with `use_reentrant=True`, without the care for random states and devices that a
function of plain products has no use for: it costs the host time, of which a layer has little to spare.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def twice(function: Callable[..., Tensor], tensor: Tensor, *others: Any) -> Tensor:
    """function(tensor, *others), which is called with gradients only the second time.

    Nothing random may happen in it, and `tensor` must need a gradient; `others` get none. What else the function uses,
    parameters for example, has its gradient added up, so `torch.autograd.grad` cannot be asked for it.
    """
    result = _Twice.apply(function, tensor, *others)
    assert isinstance(result, Tensor)
    return result


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], tensor: Tensor, *others: Any) -> Tensor:
        ctx.function, ctx.others = function, others
        ctx.save_for_backward(tensor)
        kind = tensor.device.type
        ctx.autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return function(tensor, *others)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not torch.autograd._is_checkpoint_valid():
            raise RuntimeError(
                "what is computed twice adds up gradients itself: call backward() without inputs, not autograd.grad(), "
                "or choose recompute=nothing or mixer"
            )
        (tensor,) = ctx.saved_tensors
        again = tensor.detach().requires_grad_()
        kind, (enabled, dtype) = tensor.device.type, ctx.autocast
        now = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        rounding = nullcontext() if now == ctx.autocast else torch.autocast(kind, dtype, enabled)
        with torch.enable_grad(), rounding:
            result = ctx.function(again, *ctx.others)
        torch.autograd.backward(result, grad)
        return None, again.grad, *(None for _ in ctx.others)
