"""Launches the kernels of a decoding step in CUDA C++ (stream_*.cu, many_*.cu): sources, arguments, what they share.

Each starts while the one before it runs, and several of them stand on a multiprocessor at a time, the next large ones
with their first weights in shared memory; for compute capability 9.0 on.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlmamba.ops import cuda_runtime

OLDEST = (9, 0)  # cp.async.bulk, programmatic dependent launch
THREADS, WARPS = 256, 8
STATE, TAPS = 16, 4

Defines = tuple[cuda_runtime.Define, ...]


class Conv(NamedTuple):
    """A convolution's state before and after the step, (b, e, k-1), its weight (e, k), and its bias (e,) if any."""

    before: Tensor
    after: Tensor
    weight: Tensor
    bias: Tensor | None


def struct(*names: str, **numbers: Any) -> type[ctypes.Structure]:
    """A kernel's argument: pointers, and then numbers or what holds them."""
    fields = [*((name, ctypes.c_void_p) for name in names), *numbers.items()]
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


def pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if t is None else t.data_ptr() for t in tensors]


@cache
def source(name: str, boxes: bool = False) -> str:
    """What a kernel is compiled from."""
    here = Path(__file__)
    parts = ("stream_common.cu", *(["many_boxes.cu"] if boxes else []), f"{name}.cu")
    return "".join(here.with_name(part).read_text(encoding="utf-8") for part in parts)


@cache
def num_blocks(device: torch.device) -> int:
    """One a multiprocessor."""
    return torch.cuda.get_device_properties(device).multi_processor_count


def launch(
    name: str, defines: Defines, device: torch.device, blocks: int, shared: int,
    arguments: ctypes.Structure, *, threads: int = THREADS, boxes: bool = False,
) -> None:  # fmt: skip
    """Starts `blocks` of a kernel, with so many bytes of shared memory each, while the kernel before it runs.

    boxes: it takes what many_boxes.cu holds, for compute capability 9.0 alone.
    """
    kernel = _kernel(name, defines, device.index or 0, shared, boxes)
    kernel.launch(blocks, threads, shared, arguments, early=True)


@cache
def _kernel(
    name: str, defines: Defines, device: int, shared: int, boxes: bool
) -> cuda_runtime.Kernel:
    suffix = "a" if boxes else ""
    kernel = cuda_runtime.kernel(source(name, boxes), name, defines, device, shared, suffix)
    # Kernels stand side by side on a multiprocessor only if they want its memory cut alike.
    kernel.prefer_shared()
    return kernel
