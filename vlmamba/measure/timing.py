"""How long something takes on a device, and how fast the device is at best."""

import statistics
import time
from collections.abc import Callable

import torch

# What a GPU can be asked at most, measured and not looked up.
COPY_BYTES = 2**30
MATMUL_SIDE = 8192
CACHE_BYTES = 2**28  # more than any GPU's cache


def median_ms(
    run: Callable[[], object],
    device: torch.device,
    repeats: int,
    warmup: int = 2,
    *,
    device_alone: bool = False,
    cold: bool = False,
) -> float:
    """The median time of a call in milliseconds; on a GPU by its own clock, calls queued one behind the other.

    `device_alone`: keeps the GPU busy until all calls are queued, so that what is measured is its work and not the
    time it takes to ask for it; for parts of a step, which have others before them. `cold`: every call on a GPU
    finds none of its inputs in the cache.
    """
    for _ in range(warmup):
        run()
    if device.type != "cuda":
        return statistics.median(_wall_ms(run) for _ in range(repeats))
    torch.cuda.synchronize(device)
    if device_alone:
        _keep_busy(device, _wall_ms(run) * repeats)
    cache = torch.empty(CACHE_BYTES if cold else 0, dtype=torch.uint8, device=device)
    spans = []
    for _ in range(repeats):
        if cold:
            cache.zero_()
        spans.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
        spans[-1][0].record()
        run()
        spans[-1][1].record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in spans)


def _wall_ms(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def copy_bytes_per_s(device: torch.device) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.ones(COPY_BYTES // 2, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / (1e-3 * median_ms(lambda: target.copy_(source), device, 20))


def matmul_flops_per_s(device: torch.device) -> float:
    """Floating-point operations a second in a large product of random bfloat16 matrices."""
    side = MATMUL_SIDE
    left, right = torch.randn(2, side, side, dtype=torch.bfloat16, device=device)
    return 2 * side**3 / (1e-3 * median_ms(lambda: left @ right, device, 10))


def _keep_busy(device: torch.device, milliseconds: float) -> None:
    """Queues products of matrices for about so long, a second at most."""
    side = 4096
    left = torch.zeros(side, side, dtype=torch.bfloat16, device=device)
    flops_per_ms = 1e12  # more than any GPU does, so that it is rather too long
    for _ in range(min(5000, int(milliseconds * flops_per_ms / (2 * side**3)))):
        torch.mm(left, left)
