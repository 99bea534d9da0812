"""A matrix times a few rows on a GPU, in Triton: a weight is read once, as fast as memory gives it.

The weight is the large side of a tensor-core product, the rows the small one, at most 64 at a time, padded to 16 or
more. The width may be split; the float32 partial sums are added in a fixed order by whatever reads them: no atomics,
and a row's numbers do not depend on its neighbours. A program asks for its first weights before it waits for the
kernel that makes its rows (`dependent_launch.py`).
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmamba.ops import dependent_launch

# The columns of a matrix product's small side: what the tensor cores take at least.
LEAST_ROWS = 16
MOST_ROWS = 64
# Triton's interpreter holds bfloat16 as bare bits, which its dot would multiply.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@dataclass(frozen=True)
class Tile:
    """How `thin_linear` cuts a weight (n, k): tiles of block_n x block_k, the width k in `splits` parts.

    ahead: how many columns of the first block a program asks for before its input is there.
    """

    block_n: int = 64
    block_k: int = 128
    splits: int = 1
    num_warps: int = 4
    num_stages: int = 4
    ahead: int = 512


def split_width(k: int, tile: Tile) -> int:
    """The part of the width k that one of the splits sums, in whole blocks."""
    return triton.cdiv(triton.cdiv(k, tile.splits), tile.block_k) * tile.block_k


def num_splits(k: int, tile: Tile) -> int:
    """How many splits have something to sum."""
    return triton.cdiv(k, split_width(k, tile))


def _columns(part: int) -> int:
    """Columns to ask for early: a power of two, one cache line at least."""
    return max(triton.next_power_of_2(part), 64) if part else 0


def padded_rows(b: int) -> int:
    return min(max(triton.next_power_of_2(b), LEAST_ROWS), MOST_ROWS)


@torch.no_grad()
def thin_linear(x: Tensor, weight: Tensor, out: Tensor, tile: Tile) -> None:
    """x (b, k) times weight (n, k) transposed; out (splits, b, n) are the partial sums of each split."""
    b, k = x.shape
    n = weight.shape[0]
    part = split_width(k, tile)
    splits = num_splits(k, tile)
    rows = padded_rows(b)
    early = dependent_launch.starts_early(x)
    _thin_linear_kernel[(triton.cdiv(n, tile.block_n) * splits, triton.cdiv(b, rows))](
        x, weight, out,
        b, n, k, splits, x.stride(0), weight.stride(0),
        part, splits * part == k, tile.block_n, tile.block_k, rows,
        _columns(min(tile.ahead, part)) if early else 0, early,
        **dependent_launch.launch_options(x, num_warps=tile.num_warps, num_stages=tile.num_stages),
    )  # fmt: skip


@torch.no_grad()
def sum_partials(partials: Tensor, out: Tensor) -> None:
    """out (b, n) = the sum of partials (splits, b, n), in out's dtype."""
    splits, b, n = partials.shape
    block = 64
    _sum_partials_kernel[(b, triton.cdiv(n, block))](
        partials, out, b, n, splits, block, dependent_launch.starts_early(partials),
        **dependent_launch.launch_options(partials, num_warps=2),
    )  # fmt: skip


@triton.jit
def _prefetch(rows, start, end, has_row, fallback, COLUMNS: tl.constexpr):
    """Asks for COLUMNS columns of a matrix from `start` on, up to `end`, without waiting for them."""
    # One pointer a cache line of 128 bytes.
    WIDE: tl.constexpr = 1024 // fallback.dtype.element_ty.primitive_bitwidth
    at = start + tl.arange(0, COLUMNS // WIDE) * WIDE
    wanted = has_row[:, None] & (at < end)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l",
        [tl.where(wanted, rows + at[None, :], fallback)],
        dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def dot(a, b, total):
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _thin_linear_kernel(
    x_ptr, weight_ptr, out_ptr,
    b, n, k, splits, x_b, weight_n,
    PART: tl.constexpr, EVEN: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    channel = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    has_channel, has_row = channel < n, row < b
    weights = weight_ptr + channel[:, None].to(tl.int64) * weight_n
    start = split * PART
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        if AHEAD > 0:
            end = tl.minimum(start + PART, k)
            _prefetch(weights, start, end, has_channel, weight_ptr, AHEAD)
        tl.extra.cuda.gdc_wait()
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for i in range(0, PART, BLOCK_K):
        at = start + i + tl.arange(0, BLOCK_K)
        w_mask, x_mask = has_channel[:, None], has_row[None, :]
        if not EVEN:
            w_mask &= (at < k)[None, :]
            x_mask &= (at < k)[:, None]
        w = tl.load(weights + at[None, :], mask=w_mask, other=0.0, eviction_policy="evict_first")
        x = tl.load(x_ptr + row[None, :] * x_b + at[:, None], mask=x_mask, other=0.0)
        total = dot(w, x, total)
    pointers = out_ptr + (split * b + row[None, :]).to(tl.int64) * n + channel[:, None]
    tl.store(pointers, total, mask=has_channel[:, None] & has_row[None, :])


@triton.jit
def _sum_partials_kernel(
    partials_ptr, out_ptr, b, n,
    SPLITS: tl.constexpr, BLOCK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.load(partials_ptr + row * n + at, mask=mask, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(partials_ptr + (split * b + row) * n + at, mask=mask, other=0.0)
    tl.store(out_ptr + row * n + at, total, mask=mask)
