"""Linear layer and cross-entropy in one on a CPU, a block of rows at a time, in one buffer of logits.

A row's logits are turned in place into log-probabilities, then into their own gradient, and go at once into
the gradients of the inputs. So the backward pass has nothing left to do but scale, and no tensor of all logits,
let alone the four or five that autograd would make, is ever asked from the system.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.reference import scan_dtype

# A block's logits have at most so many elements: with fewer the matrix products slow down.
BLOCK_ELEMENTS = 2**24


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`reference.linear_cross_entropy_ref`, fast. Differentiable once."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _LinearCrossEntropy.apply(x, weight, targets)  # pyright: ignore[reportReturnType]
    return _forward(x, weight, targets, None, None)


def _forward(
    x: Tensor, weight: Tensor, targets: Tensor, dx: Tensor | None, dweight: Tensor | None
) -> Tensor:
    """The summed loss; dx (t, d) and dweight (v, d) are filled with its gradients where given."""
    dtype = scan_dtype(x.dtype)
    x, weight = x.to(dtype), weight.to(dtype)
    blocks = max(1, math.ceil(len(x) * len(weight) / BLOCK_ELEMENTS))
    buffer = x.new_empty((math.ceil(len(x) / blocks), len(weight)))
    total, begin = x.new_zeros(()), 0
    for rows, target in zip(x.tensor_split(blocks), targets.tensor_split(blocks), strict=True):
        end = begin + len(rows)
        logits, target = buffer[: len(rows)], target.unsqueeze(1)
        torch.mm(rows, weight.t(), out=logits)
        torch.log_softmax(logits, 1, out=logits)
        total -= logits.gather(1, target).sum()
        if dx is not None or dweight is not None:
            logits.exp_().scatter_add_(1, target, logits.new_full((1, 1), -1.0).expand_as(target))
        if dx is not None:
            torch.mm(logits, weight, out=dx[begin:end])
        if dweight is not None:
            torch.addmm(dweight, logits.t(), rows, beta=min(begin, 1), out=dweight)
        begin = end
    return total


class _LinearCrossEntropy(torch.autograd.Function):
    """Keeps the gradients themselves for the first backward pass, which scales them in place and gives them away."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, targets)
        ctx.grads = _room(ctx, x, weight)
        return _forward(x, weight, targets, *ctx.grads)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride], the decorator's doing
        ctx: Any, grad_output: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, weight, targets = ctx.saved_tensors
        if ctx.grads is None:  # a second pass over a graph that was retained
            ctx.grads = _room(ctx, x, weight)
            _forward(x, weight, targets, *ctx.grads)
        (dx, dweight), ctx.grads = ctx.grads, None
        pairs = ((dx, x), (dweight, weight))
        return *(None if d is None else d.mul_(grad_output).to(t.dtype) for d, t in pairs), None


def _room(ctx: Any, x: Tensor, weight: Tensor) -> list[Tensor | None]:
    """Places for the gradients that are needed."""
    needed = zip((x, weight), ctx.needs_input_grad, strict=False)
    return [torch.empty_like(t, dtype=scan_dtype(t.dtype)) if n else None for t, n in needed]
