"""The second pass of the kernels that leave partial sums of a parameter's gradient: every sum in one launch, rounded.

Rows are added in a fixed order, so the same bits come out of every run.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_R, BLOCK_E = 128, 32  # few steps of a program: each waits for memory
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
ACCUMULATE = {torch.float32: tl.float32, torch.float64: tl.float64}


def summed(partial: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Tensor | None]:
    """partial (r, k, e), or (r, k + 1, e) with a bias last -> the gradients of weight (e, k) and of bias (e,)."""
    r, m, e = partial.shape
    k = weight.numel() // max(1, e)
    found = torch.empty(weight.shape, dtype=weight.dtype, device=partial.device)
    last = None
    if bias is not None:
        last = torch.empty(bias.shape, dtype=bias.dtype, device=partial.device)
    if e:
        _sum_kernel[(triton.cdiv(e, BLOCK_E), k + (bias is not None))](
            partial, found, last, r, e, m, k, ACCUMULATE[partial.dtype], BLOCK_R, BLOCK_E, **OPTIONS
        )
    return [found, last]


@triton.jit
def _sum_kernel(
    partial_ptr, found_ptr, last_ptr, r, e,
    M: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    j = tl.program_id(1)
    total = tl.zeros((BLOCK_R, BLOCK_E), ACC)
    for start in range(0, r, BLOCK_R):
        row = (start + tl.arange(0, BLOCK_R))[:, None]
        mask = (row < r) & (channel[None, :] < e)
        total += tl.load(partial_ptr + (row * M + j) * e + channel[None, :], mask=mask, other=0.0)
    x = tl.sum(total, 0)
    if last_ptr is not None:
        tl.store(last_ptr + channel, x, mask=channel < tl.where(j == K, e, 0))
    tl.store(found_ptr + channel * K + j, x, mask=channel < tl.where(j < K, e, 0))
