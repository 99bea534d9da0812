"""A function over fixed tensors as a CUDA graph: every launch recorded once, then replayed as one."""

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

# Runs a function and gives a way to run it again, and where its result stands after every run.
Capture: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]


def capture_graph(run: Callable[[], Tensor], pool: Any = None) -> tuple[Callable[[], None], Tensor]:
    """`run` as a CUDA graph on the current device; it runs once before, so that every kernel is there.

    `pool`: a `torch.cuda.graph_pool_handle`, memory shared by graphs that never run at the same time.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on using the device meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        out = run()

    def replay(_run: Callable[[], Tensor] = run) -> None:
        # The graph goes on using the buffers that `run` holds, so it is kept.
        graph.replay()

    return replay, out


class Turns:
    """Lets replays on a device run one after another, whatever streams ask for them: they share buffers."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: torch.cuda.Stream | None = None
        self._lock = threading.Lock()

    def take(self, replay: Callable[[], None]) -> None:
        if self._device.type != "cuda":
            return replay()
        stream = torch.cuda.current_stream(self._device)
        with self._lock:
            if self._last is not None and self._last != stream:
                stream.wait_stream(self._last)
            self._last = stream
            replay()


@cache
def turns_on(device: torch.device) -> Turns:
    return Turns(device)
