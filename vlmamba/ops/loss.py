"""Linear layer and cross-entropy in one on a GPU, a chunk of rows at a time.

The loss is a sum, so its gradient is known up to one factor as soon as a chunk's logits are: one Triton kernel
turns them in place into their own gradient, two matrix products take it into the gradients of the inputs, and the
backward pass only scales. The weight's gradient is summed over chunks in float32.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOptionalMemberAccess=false, reportOperatorIssue=false

import math
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.precision import compute_dtype
from vlmamba.ops.reference import scan_dtype

# Bytes of logits at a time: so many that the products of a large vocabulary run at full speed.
MOST = 2**29
BLOCK_V = 8192
OPTIONS = {"num_warps": 16, "enable_fp_fusion": True}
ACCUMULATE = {torch.float32: tl.float32, torch.float64: tl.float64}


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """`reference.linear_cross_entropy_ref` without the logits of all rows. Differentiable once."""
    dtype = compute_dtype(weight)
    wanted = [torch.is_grad_enabled() and t.requires_grad for t in (x, weight)]
    with torch.autocast(x.device.type, enabled=False):
        if any(wanted):
            return _LinearCrossEntropy.apply(x, weight, targets, dtype, wanted)  # pyright: ignore[reportReturnType]
        return _forward(x, weight, targets, dtype, wanted)[0]


class _LinearCrossEntropy(torch.autograd.Function):
    """Keeps the gradients themselves for the first backward pass, which scales them in place and gives them away."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, wanted: list[bool]
    ) -> Tensor:
        ctx.save_for_backward(x, weight, targets)
        ctx.dtype, ctx.wanted = dtype, wanted
        total, *ctx.grads = _forward(x, weight, targets, dtype, wanted)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, targets = ctx.saved_tensors
        if ctx.grads is None:  # a second pass over a graph that was retained
            _, *ctx.grads = _forward(x, weight, targets, ctx.dtype, ctx.wanted)
        grads, ctx.grads = ctx.grads, None
        pairs = zip(grads, (x, weight), strict=True)
        scaled = (None if g is None else _scaled(g, grad, t.dtype) for g, t in pairs)
        return *scaled, None, None, None


def _scaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """Their product, in place if the dtype stays: one pass either way."""
    out = gradient if gradient.dtype == dtype else torch.empty_like(gradient, dtype=dtype)
    return torch.mul(gradient, factor.to(gradient.dtype), out=out)


def _forward(
    x: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, wanted: list[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The summed loss, and the gradients of x (t, d) and weight (v, d), where wanted. Products are in `dtype`."""
    wide = scan_dtype(dtype)
    x, weight = x.to(dtype), weight.to(dtype)
    chunks = max(1, math.ceil(len(x) * len(weight) * dtype.itemsize / MOST))
    dx = torch.empty_like(x) if wanted[0] else None
    dweight = torch.zeros_like(weight, dtype=wide if chunks > 1 else dtype) if wanted[1] else None
    total, begin = torch.zeros((), dtype=wide, device=x.device), 0
    for rows, target in zip(x.tensor_split(chunks), targets.tensor_split(chunks), strict=True):
        logits = F.linear(rows, weight)  # (r, v)
        total += _cross_entropy(logits, target, any(wanted)).sum()
        if dx is not None:
            torch.mm(logits, weight, out=dx[begin : begin + len(rows)])
        if dweight is not None:
            _add_product(dweight, logits.t(), rows)
        begin += len(rows)
    return total, dx, dweight


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total (m, n) += left (m, k) right (k, n), which may be narrower than the sum."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif total.is_cuda:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


def _cross_entropy(logits: Tensor, targets: Tensor, differentiate: bool) -> Tensor:
    r, v = logits.shape
    losses = torch.empty(r, dtype=scan_dtype(logits.dtype), device=logits.device)
    unit = math.gcd(v, 8)
    _cross_entropy_kernel[(r,)](
        logits, targets.contiguous(), losses, v // unit,
        unit, differentiate, ACCUMULATE[losses.dtype], min(BLOCK_V, triton.next_power_of_2(v)),
        **OPTIONS,
    )  # fmt: skip
    return losses


@triton.jit
def _cross_entropy_kernel(
    logits_ptr, target_ptr, loss_ptr, units,
    UNIT: tl.constexpr, DIFFERENTIATE: tl.constexpr, ACC: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    v = (
        units * UNIT
    )  # seen to be a multiple of UNIT, which lets a vocabulary such as 50280 load 16 bytes at once
    logits_ptr += row * v
    lane = tl.arange(0, BLOCK_V)
    target = tl.load(target_ptr + row)
    wanted = tl.load(logits_ptr + target).to(ACC)
    # Each lane keeps its own largest logit and its sum of exponentials below it; the first is finite from the start.
    largest = tl.full((BLOCK_V,), -3e38, ACC)
    sums = tl.zeros((BLOCK_V,), ACC)
    for start in range(0, v, BLOCK_V):
        at = start + lane
        x = tl.load(logits_ptr + at, mask=at < v, other=float("-inf")).to(ACC)
        above = tl.maximum(largest, x)
        sums = sums * tl.exp(largest - above) + tl.exp(x - above)
        largest = above
    top = tl.max(largest, 0)
    total = tl.sum(sums * tl.exp(largest - top), 0)
    tl.store(loss_ptr + row, tl.log(total) + top - wanted)
    if DIFFERENTIATE:
        # Every lane has read what it needs before any lane writes.
        tl.debug_barrier()
        for start in range(0, v, BLOCK_V):
            at = start + lane
            x = tl.load(logits_ptr + at, mask=at < v, other=float("-inf")).to(ACC)
            grad = tl.exp(x - top) / total - tl.where(at == target, 1.0, 0.0)
            tl.store(logits_ptr + at, grad, mask=at < v)
