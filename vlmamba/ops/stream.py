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
    Conv,
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
    ahead: steps of 32 columns at once. least: blocks, of this or of other kernels, for which a multiprocessor has
    registers. near: chunks behind those that have a place which are asked into the second-level cache.
    """

    tile: int = 8
    stages: int = 2
    held: bool = False
    ahead: int = 2
    least: int = 2
    near: int = 0


class Coming(NamedTuple):
    """Of the weight of a later product what a kernel asks into the second-level cache.

    Bytes of each block's share of its tiles, of `tile` rows each: `take` after the first `skip`.
    """

    weight: Tensor
    tile: int
    skip: int
    take: int


class _Coming(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("tiles", "tile_bytes", "blocks", "skip", "take")),
    )


def _coming(coming: Coming | None) -> _Coming:
    if coming is None:
        return _Coming()
    weight, tile, skip, take = coming
    rows, columns = weight.shape
    return _Coming(
        weight.data_ptr(), rows // tile, tile * columns * weight.element_size(),
        num_blocks(weight.device), skip, take,
    )  # fmt: skip


Product = struct(
    "weight", "x", "squares", "out", "residual", "norm", "next", "next_squares",
    "conv_before", "conv_after", "conv", "conv_bias",
    coming=_Coming, rows=ctypes.c_int64, near=ctypes.c_int64, eps=ctypes.c_float,
)  # fmt: skip
Select = struct("uz", "weight", "out", coming=_Coming)
Embed = struct("tokens", "embeddings", "norm", "residual", "next", "squares")
Scan = struct(
    "uz", "selected", "ssm_before", "ssm_after", "dt_proj", "dt_bias", "A_log", "D", "y", coming=_Coming
)  # fmt: skip


class Rows(NamedTuple):
    """Rows before a norm: the residual (b, d) float32, times the norm's weight (b, d), its squares in sums (b, blocks).

    A product of them multiplies `weighted`, and its sums by what the norm makes of the squares.
    """

    residual: Tensor
    weighted: Tensor
    squares: Tensor

    @staticmethod
    def new(b: int, d: int, dtype: torch.dtype, device: torch.device) -> "Rows":
        wide = {"dtype": torch.float32, "device": device}
        return Rows(
            torch.empty(b, d, **wide),
            torch.empty(b, d, dtype=dtype, device=device),
            torch.empty(b, num_blocks(device), **wide),
        )


def product_defines(
    ring: Ring,
    b: int,
    rows: int,
    columns: int,
    blocks: int,
    *,
    norm: bool,
    add: bool,
    conv: bool,
) -> Defines:
    steps = columns // THREADS
    ahead = next(n for n in range(ring.ahead, 0, -1) if steps % n == 0)
    tiles = -(-(rows // 2 if conv else rows) // ring.tile)
    most = -(-tiles // blocks) * ring.tile if conv or add else 0
    return (
        ("BATCH", b), ("COLUMNS", columns), ("TILE", ring.tile), ("STAGES", ring.stages),
        ("NORM", int(norm)), ("ADD", int(add)), ("CONV", int(conv)), ("MOST", most), ("BLOCKS", blocks),
        ("HELD", int(ring.held)), ("AHEAD", ahead), ("LEAST", ring.least),
    )  # fmt: skip


def product_shared_bytes(defines: Defines) -> int:
    of = dict(defines)
    b, columns, stages = of["BATCH"], of["COLUMNS"], of["STAGES"]
    barriers = (stages + stages % 2) * 8
    sums = 2 * SUMS_BYTES + MOST_ROWS * 4
    pitch = columns * 2 + 64
    rows = 0 if of["HELD"] else b * (pitch if b > 2 else columns * 2)
    outputs = (b + 1) * of["MOST"] * 4
    return stages * of["TILE"] * pitch + barriers + sums + rows + outputs


@torch.no_grad()
def stream_product(
    weight: Tensor,
    ring: Ring,
    x: Tensor | Rows,
    *,
    eps: float = 0.0,
    out: Tensor | None = None,
    rows: Rows | None = None,
    norm: Tensor | None = None,
    conv: Conv | None = None,
    coming: Coming | None = None,
) -> None:
    """out (b, n) = x (b, k), or the RMSNorm of Rows, times weight (n, k) transposed; `conv`: its first half convolved.

    Without `out` it is added to the residual of `rows`, and the rest of them made anew for the weight `norm` (n,).
    """
    n, columns = weight.shape
    device = weight.device
    taken, squares = (x.weighted, x.squares) if isinstance(x, Rows) else (x, None)
    b, blocks = len(taken), num_blocks(device)
    defines = product_defines(
        ring, b, n, columns, blocks,
        norm=squares is not None, add=rows is not None, conv=conv is not None,
    )  # fmt: skip
    residual, weighted, next_squares = rows or (None, None, None)
    values = pointers(
        weight, taken, squares, out, residual, norm, weighted, next_squares, *(conv or [None] * 4)
    )
    arguments = Product(*values, _coming(coming), n, ring.near, eps)
    shared = product_shared_bytes(defines)
    launch("stream_product", defines, device, blocks, shared, arguments)


@torch.no_grad()
def stream_embed(tokens: Tensor, embeddings: Tensor, norm: Tensor, rows: Rows) -> None:
    """The embeddings (v, d) of tokens (b,) as rows before the norm whose weight is `norm` (d,)."""
    b, d = rows.residual.shape
    defines = (("COLUMNS", d), ("BLOCKS", rows.squares.shape[1]))
    arguments = Embed(*pointers(tokens, embeddings, norm, *rows))
    launch("stream_embed", defines, tokens.device, b, WARPS * 4, arguments)


def num_splits(e: int) -> int:
    """How many parts x_proj's e columns are cut into, each in whole steps of all warps."""
    return next(n for n in (5, 4, 6, 3, 2, 1) if e % (n * THREADS) == 0)


@torch.no_grad()
def stream_select(
    uz: Tensor, weight: Tensor, partials: Tensor, coming: Coming | None = None
) -> None:
    """x_proj: of uz (b, 2e) the first half, weight (r + 2n, e) -> partial sums (splits, b, r + 2n) in float32."""
    splits, b, width = partials.shape
    e = weight.shape[1]
    defines = (("BATCH", b), ("D_INNER", e), ("WIDTH", width), ("SPLITS", splits))
    arguments = Select(*pointers(uz, weight, partials), _coming(coming))
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
    coming: Coming | None = None,
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
    shared += THREADS * rank // 2 if b > 2 else 0  # of dt_proj
    shared += THREADS * 16 * b if b > 4 else 0  # of the states
    values = pointers(uz, selected, before, after, dt_weight, dt_bias, A_log, D, out)
    arguments = Scan(*values, _coming(coming))
    blocks = max(num_blocks(uz.device), -(-e // CHANNELS))
    launch("stream_scan", defines, uz.device, blocks, shared, arguments)
