"""What a decoding step of many rows in bfloat16 does in CUDA C++: products on the tensor cores, and the scan's step.

Weights and rows come through shared memory in boxes by the copy engine; each kernel starts while the one before it
runs (`stream_launch.py`). For compute capability 9.0. Letters: b rows, e inner width, n state or a product's outputs,
k convolution width or a product's width, r rank of dt.
"""

import ctypes
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from vlmamba.ops import cuda_runtime
from vlmamba.ops.stream_launch import STATE, Conv, launch, num_blocks, pointers, struct

MOST_ROWS = 64
CHUNK, TILE, LINE = 64, 80, 128
SCAN_ROWS, SCAN_CHANNELS, SCANNERS = 16, 56, 224
WARPGROUP = 128
HALF_OF_SHARED = 113 * 1024 + 128  # a little more than half of a multiprocessor's


class Cut(NamedTuple):
    """How a product is cut: `splits` parts of the columns, `stages` chunks of 64 columns of the weight and
    `waiting` of the rows, at most as many, in shared memory at a time.

    alone: no two blocks of it stand on a multiprocessor, which would have to read twice as much as the others.
    """

    splits: int = 1
    stages: int = 6
    waiting: int = 4
    alone: bool = True


class Product(ctypes.Structure):
    _fields_ = (
        ("maps", ctypes.c_ubyte * 256),
        *((name, ctypes.c_void_p) for name in ("out", "conv_before", "conv_after", "conv", "conv_bias")),
        *((name, ctypes.c_int) for name in ("b", "n", "k", "pitch")),
        ("rest", ctypes.c_ubyte * 8),
    )  # fmt: skip


Scan = struct(
    "uz", "selected", "before", "after", "dt_proj", "dt_bias", "A_log", "D", "y", b=ctypes.c_int
)


def part_of(k: int, splits: int) -> int:
    """The columns that one of the splits sums, in whole chunks."""
    return -(-k // (splits * CHUNK)) * CHUNK


def num_splits(k: int, cut: Cut) -> int:
    """How many splits have something to sum."""
    return -(-k // part_of(k, cut.splits))


@torch.no_grad()
def many_product(
    x: Tensor, weight: Tensor, out: Tensor, cut: Cut, conv: Conv | None = None
) -> None:
    """x (b, k) times weight (n, k) transposed -> out (b, n), or the partial sums out (splits, b, n) in float32.

    With `conv` the first half of what comes out goes through the convolution and silu.
    """
    b, k = x.shape
    n = weight.shape[0]
    splits, partial = num_splits(k, cut), out.dim() == 3
    defines = (
        ("SPLITS", splits), ("PART", part_of(k, cut.splits)), ("STAGES", cut.stages), ("WAITING", cut.waiting),
        ("PARTIAL", int(partial)), ("CONV", int(conv is not None)),
    )  # fmt: skip
    maps = cuda_runtime.tensor_map(weight, TILE // 2 if conv else TILE, CHUNK)
    maps += cuda_runtime.tensor_map(x, MOST_ROWS, CHUNK)
    arguments = Product(
        (ctypes.c_ubyte * 256)(*maps), *pointers(out, *(conv or [None] * 4)),
        b, n, k, 0 if partial else out.stride(0),
    )  # fmt: skip
    shared = 1024 + cut.stages * (TILE * LINE + 8) + cut.waiting * (MOST_ROWS * LINE + 16) + 8
    shared += 0 if conv is None else MOST_ROWS * TILE * 3 + TILE * 5
    shared = max(shared, HALF_OF_SHARED) if cut.alone else shared
    tiles = -(-n // TILE) if conv is None else -(-n // 2 // (TILE // 2))
    launch(
        "many_product", defines, x.device, tiles * splits, shared, arguments,
        threads=WARPGROUP + 32, boxes=True,
    )  # fmt: skip


@torch.no_grad()
def many_scan(
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

    uz (b, 2e): the convolved x, and the gate before its silu; selected (b, r + 2n); before, after: ssm_state
    (b, e, n) float32, in other memory after than before; dt_weight (e, r); dt_bias, D (e,); A_log (e, n).
    """
    b = selected.shape[0]
    e, rank = dt_weight.shape
    groups = -(-b // SCAN_ROWS)
    blocks = num_blocks(uz.device)
    least = -(-e // SCAN_CHANNELS)
    # As many blocks on every multiprocessor.
    parts = next(m * blocks // groups for m in count(1) if m * blocks // groups >= least)
    defines = (("D_INNER", e), ("RANK", rank), ("PARTS", parts))
    shared = SCAN_ROWS * (rank * 2 + 16 + 2 * STATE * 4 + SCAN_CHANNELS * 8) + SCANNERS * rank // 2
    arguments = Scan(*pointers(uz, selected, before, after, dt_weight, dt_bias, A_log, D, out), b)
    launch(
        "many_scan", defines, uz.device, groups * parts, shared, arguments,
        threads=SCANNERS, boxes=True,
    )  # fmt: skip
