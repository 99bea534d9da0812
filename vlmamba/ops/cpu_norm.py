"""The residual add and the norm after it in one on a CPU, with a hand-written backward pass.

PyTorch's `rms_norm` is five operations there, each with a tensor of its own for the backward pass; this one
keeps the sum, which is the next residual anyway, and one number a row.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.reference import scan_dtype


def add_rms_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`reference.add_rms_norm_ref`, fast. Differentiable once."""
    inputs = (hidden, residual, weight)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _AddRMSNorm.apply(*inputs, eps, dtype)  # pyright: ignore[reportReturnType]
    normed, total, _ = _forward(*inputs, eps, dtype)
    return normed, total


def _forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The normed sum (.., d), the sum (.., d), and 1 / its root mean square (.., 1)."""
    wide = scan_dtype(hidden.dtype)
    total = hidden.to(wide) if residual is None else residual.to(wide) + hidden.to(wide)
    length = torch.linalg.vector_norm(total, dim=-1, keepdim=True)
    scale = length.square_().div_(total.shape[-1]).add_(eps).rsqrt_()
    return (total * scale).mul_(weight.to(wide)).to(dtype), total, scale


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        residual: Tensor | None,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        normed, total, scale = _forward(hidden, residual, weight, eps, dtype)
        ctx.save_for_backward(total, scale, weight)
        ctx.dtypes = hidden.dtype, None if residual is None else residual.dtype
        return normed, total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride], the decorator's doing
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        dnormed, dtotal = grad_outputs
        total, scale, weight = ctx.saved_tensors
        dnormed, wide_weight = dnormed.to(total.dtype), weight.to(total.dtype)
        unit = total * scale
        product = dnormed * unit
        dweight = product.reshape(-1, weight.shape[0]).sum(0)
        along = product.mul_(wide_weight).mean(-1, keepdim=True)  # (.., 1)
        grad = (dnormed * wide_weight).addcmul_(unit, along, value=-1).mul_(scale).add_(dtotal)
        dhidden, dresidual = (None if t is None else grad.to(t) for t in ctx.dtypes)
        return dhidden, dresidual, dweight.to(weight.dtype), None, None
