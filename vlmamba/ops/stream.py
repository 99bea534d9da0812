"""A decoding step of few rows in bfloat16 between its layers' weights, in CUDA C++: products, x_proj, scan.

The weights come through shared memory in chunks; see stream_launch.py for how the kernels start. Letters: b rows,
d model width, e inner width, n state, k convolution width or a product's width, r rank of dt.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from vlmamba.ops.stream_launch import (
    STATE,
    THREADS,
    WARPS,
    Defines,
    launch,
    num_blocks,
    pointers,
    struct,
)  # fmt: skip

MOST_ROWS = 8
OUTPUTS = 8  # of a block of stream_select
CHANNELS = THREADS // 4  # of a block of stream_scan, at most
SUMS_BYTES = WARPS * 64 * 4


class Ring(NamedTuple):
    """How a weight comes: rows of it in a chunk, chunks at a time, and where the numbers it multiplies stay.

    tile: rows of the weight in a chunk. stages: chunks that have a place. held: in registers, else in shared memory.
    ahead: steps of 32 columns at once. group: rows whose norm is made at once. least: blocks, of this or of other
    kernels, for which a multiprocessor shall have registers.
    """

    tile: int = 8
    stages: int = 2
    held: bool = False
    ahead: int = 2
    group: int = 2
    least: int = 2


Product = struct(
    "weight", "x", "residual", "norm", "tokens", "embeddings", "out",
    "conv_before", "conv_after", "conv", "conv_bias",
    rows=ctypes.c_int64, eps=ctypes.c_float,
)  # fmt: skip
Select = struct("uz", "weight", "out")
Norm = struct("residual", "norm", "tokens", "embeddings", "out", eps=ctypes.c_float)
Scan = struct("uz", "selected", "ssm_before", "ssm_after", "dt_proj", "dt_bias", "A_log", "D", "y")


class Conv(NamedTuple):
    """A convolution's state before and after the step, (b, e, k-1), its weight (e, k), and its bias (e,) if any."""

    before: Tensor
    after: Tensor
    weight: Tensor
    bias: Tensor | None


def product_defines(
    ring: Ring, b: int, rows: int, columns: int, blocks: int, *, norm: bool, add: bool, conv: bool
) -> Defines:
    steps = columns // THREADS
    ahead = next(n for n in range(ring.ahead, 0, -1) if steps % n == 0)
    tiles = -(-(rows // 2 if conv else rows) // ring.tile)
    most = -(-tiles // blocks) * ring.tile if conv or add else 0
    return (
        ("BATCH", b), ("COLUMNS", columns), ("TILE", ring.tile), ("STAGES", ring.stages),
        ("NORM", int(norm)), ("ADD", int(add)), ("CONV", int(conv)), ("MOST", most),
        ("HELD", int(ring.held)), ("AHEAD", ahead), ("GROUP", min(ring.group, b)), ("LEAST", ring.least),
    )  # fmt: skip


def product_shared_bytes(defines: Defines) -> int:
    of = dict(defines)
    b, columns, stages = of["BATCH"], of["COLUMNS"], of["STAGES"]
    barriers = (stages + stages % 2) * 8
    sums = 2 * SUMS_BYTES + MOST_ROWS * WARPS * 4
    rows = 0 if of["HELD"] else b * columns * 2
    return stages * of["TILE"] * columns * 2 + barriers + sums + rows + (b + 1) * of["MOST"] * 4


@torch.no_grad()
def stream_product(
    weight: Tensor,
    ring: Ring,
    b: int,
    *,
    x: Tensor | None = None,
    residual: Tensor | None = None,
    norm: Tensor | None = None,
    eps: float = 0.0,
    tokens: Tensor | None = None,
    embeddings: Tensor | None = None,
    out: Tensor | None = None,
    conv: Conv | None = None,
) -> None:
    """out (b, n) = rows (b, k) times weight (n, k) transposed; without `out` it is added to residual (b, n) float32.

    The rows are x (b, k), or with `norm` (k,) the RMSNorm of residual (b, k) float32. With `tokens` (b,) the
    residual is what `embeddings` hold for them. With `conv` the first half of what comes out is convolved.
    """
    rows, columns = weight.shape
    device = weight.device
    defines = product_defines(
        ring,
        b,
        rows,
        columns,
        num_blocks(device),
        norm=norm is not None,
        add=out is None,
        conv=conv is not None,
    )
    shared = product_shared_bytes(defines)
    values = pointers(weight, x, residual, norm, tokens, embeddings, out, *(conv or [None] * 4))
    arguments = Product(*values, rows, eps)
    launch("stream_product", defines, device, num_blocks(device), shared, arguments)


@torch.no_grad()
def stream_norm(
    residual: Tensor,
    norm: Tensor,
    eps: float,
    out: Tensor,
    tokens: Tensor | None = None,
    embeddings: Tensor | None = None,
) -> None:
    """out (b, d) = the RMSNorm of residual (b, d) float32, or of what `embeddings` (v, d) hold for tokens (b,)."""
    b, d = residual.shape
    arguments = Norm(*pointers(residual, norm, tokens, embeddings, out), eps)
    launch("stream_norm", (("COLUMNS", d),), out.device, b, WARPS * 4, arguments)


def num_splits(e: int) -> int:
    """How many parts x_proj's e columns are cut into, each in whole steps of all warps."""
    return next(n for n in (5, 4, 6, 3, 2, 1) if e % (n * THREADS) == 0)


@torch.no_grad()
def stream_select(uz: Tensor, weight: Tensor, partials: Tensor) -> None:
    """x_proj: of uz (b, 2e) the first half, weight (r + 2n, e) -> partial sums (splits, b, r + 2n) in float32."""
    splits, b, width = partials.shape
    e = weight.shape[1]
    defines = (("BATCH", b), ("D_INNER", e), ("WIDTH", width), ("SPLITS", splits))
    arguments = Select(*pointers(uz, weight, partials))
    blocks = width // OUTPUTS * splits
    launch("stream_select", defines, uz.device, blocks, SUMS_BYTES, arguments)


@torch.no_grad()
def stream_scan(
    uz: Tensor,
    selected: Tensor,
    before: Tensor,
    after: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out: Tensor,
) -> None:
    """The rest of a step between the projections: out (b, e), gated, and the state after the step.

    uz (b, 2e): the convolved x, and the gate before its silu; selected (splits, b, r + 2n), whose sum counts; before,
    after: ssm_state (b, e, n) float32, in other memory after than before; dt_weight (e, r); dt_bias, D (e,);
    A_log (e, n).
    """
    splits, b, _ = selected.shape
    e, rank = dt_weight.shape
    defines = (("BATCH", b), ("D_INNER", e), ("RANK", rank), ("SPLITS", splits))
    shared = b * (rank * 2 + 16 + 2 * STATE * 4 + CHANNELS * 4)
    shared += THREADS * rank // 2 if b > 4 else 0  # of dt_proj
    arguments = Scan(*pointers(uz, selected, before, after, dt_weight, dt_bias, A_log, D, out))
    blocks = max(num_blocks(uz.device), -(-e // CHANNELS))
    launch("stream_scan", defines, uz.device, blocks, shared, arguments)
