"""A layer's dynamics from its parameters on a GPU, in one launch each way: launches of small work are not free."""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops import reference

BLOCK = 1024
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


def scan_dynamics(A_log: Tensor, D: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.scan_dynamics`; where there is something to convert, as one Triton kernel."""
    narrow = {t.dtype for t in (A_log, D, dt_bias)} in ({torch.bfloat16}, {torch.float16})
    if narrow and all(t.is_contiguous() for t in (A_log, D, dt_bias)):
        return _Dynamics.apply(A_log, D, dt_bias)  # pyright: ignore[reportReturnType]
    return reference.scan_dynamics(A_log, D, dt_bias)


class _Dynamics(torch.autograd.Function):
    @staticmethod
    def forward(ctx, A_log, D, dt_bias):
        found = [
            torch.empty(t.shape, dtype=torch.float32, device=t.device) for t in (A_log, D, dt_bias)
        ]
        _convert[(triton.cdiv(A_log.numel(), BLOCK),)](
            A_log, D, dt_bias, None, *found, A_log.numel(), D.numel(), BLOCK, **OPTIONS
        )
        ctx.save_for_backward(found[0])
        ctx.dtype = A_log.dtype
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        (A,) = ctx.saved_tensors
        found = [torch.empty(t.shape, dtype=ctx.dtype, device=t.device) for t in grads]
        _convert[(triton.cdiv(A.numel(), BLOCK),)](
            *(t.contiguous() for t in grads),
            A,
            *found,
            A.numel(),
            grads[1].numel(),
            BLOCK,
            **OPTIONS,
        )
        return tuple(found)


@triton.jit
def _convert(
    a_ptr, d_ptr, bias_ptr, factor_ptr, a_out, d_out, bias_out, count, channels, BLOCK: tl.constexpr
):
    """a -> -exp(a), or with a factor a -> a * factor, which is the gradient's way back; the others as they are."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(a_ptr + at, mask=at < count).to(tl.float32)
    if factor_ptr is None:
        a = -tl.exp(a)
    else:
        a *= tl.load(factor_ptr + at, mask=at < count)
    tl.store(a_out + at, a, mask=at < count)
    d = tl.load(d_ptr + at, mask=at < channels).to(tl.float32)
    tl.store(d_out + at, d, mask=at < channels)
    bias = tl.load(bias_ptr + at, mask=at < channels).to(tl.float32)
    tl.store(bias_out + at, bias, mask=at < channels)
