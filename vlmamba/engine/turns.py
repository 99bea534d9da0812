"""Replays on a device one after another, since they share buffers."""

import threading
from collections.abc import Callable
from functools import cache

import torch


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
