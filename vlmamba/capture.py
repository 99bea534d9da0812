"""A function over fixed tensors as a CUDA graph: every launch recorded once, then replayed as one."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
# Runs a function and gives a way to run it again, and where its result stands after every run.
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def capture_graph(
    run: Callable[[], T], pool: Any = None, warm_up: int = 1
) -> tuple[Callable[[], None], T]:
    """`run` as a CUDA graph on the current device, after it ran `warm_up` times: a way to replay it, and what it
    returned, which every replay fills anew.

    `pool`: a `torch.cuda.graph_pool_handle`, memory shared by graphs that never run at the same time. Raises
    RuntimeError where `run` cannot be recorded, for example because it waits for the device.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm_up):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # The stream is named because torch's own choice is on the device of the process's first recording. Other threads
    # may go on using the device meanwhile.
    with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
        out = run()

    def replay(_run: Callable[[], T] = run) -> None:
        # The graph goes on using the buffers that `run` holds, so it is kept.
        graph.replay()

    return replay, out
