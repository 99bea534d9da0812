"""Decoding from CUDA graphs: fixed buffers for a few rows, and the step over them captured once and replayed.

A step reads the state in one buffer and writes the next into another, turn by turn, so that it may be started
before it is certain that a row goes on: the state before it is still there.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from vlmamba.capture import Capture
from vlmamba.model import VLMamba
from vlmamba.state import State

# How many rows a lane may have; a batch takes the smallest that holds it.
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
# What idle lanes may keep of the device's memory, as a share, and how many they may be.
IDLE_SHARE = 0.15
MOST_IDLE = 8

# tokens (b,), the state before, the state after -> logits (b, v), in a buffer of the step's own.
Step: TypeAlias = Callable[[Tensor, State, State], Tensor]


class Lane:
    """Room for `size` rows: their next tokens, their state before and after a step, and the step itself."""

    def __init__(self, model: VLMamba, size: int, step: Step, capture: Capture) -> None:
        self.size = size
        with torch.inference_mode(False), torch.no_grad():
            self.tokens = torch.zeros(size, dtype=torch.long, device=model.device)
            self.states = (model.allocate_state(size), model.allocate_state(size))
            self.latest = 0  # which of the states is the newest
            self._replays, self._logits = [], []
            for source, target in (self.states, self.states[::-1]):
                replay, logits = capture(partial(step, self.tokens, source, target))
                self._replays.append(replay)
                self._logits.append(logits)

    @property
    def num_bytes(self) -> int:
        logits = self._logits[0]
        return sum(s.num_bytes for s in self.states) + logits.numel() * logits.element_size()

    def step(self) -> Tensor:
        """Reads `tokens`: logits (size, v), which the next step overwrites; `latest` is the other state."""
        turn = self.latest
        self._replays[turn]()
        self.latest = 1 - turn
        return self._logits[turn]


class Lanes:
    """The lanes of one model: each serves one generation at a time and is kept for the next."""

    def __init__(self, make: Callable[[int], Lane], idle_bytes: float = float("inf")) -> None:
        self._make = make
        self._idle_bytes = idle_bytes
        self._idle: list[Lane] = []  # the longest unused first
        self._lock = threading.Lock()

    def take(self, rows: int) -> Lane | None:
        """A lane for as many rows, which the caller gives back; None when there is no lane of that size."""
        size = next((size for size in SIZES if size >= rows), None)
        if size is None:
            return None
        with self._lock:
            for lane in reversed(self._idle):
                if lane.size == size:
                    self._idle.remove(lane)
                    return lane
            return self._make(size)

    def give_back(self, lane: Lane) -> None:
        with self._lock:
            self._idle.append(lane)
            while len(self._idle) > MOST_IDLE or self._idle_bytes < sum(
                lane.num_bytes for lane in self._idle
            ):
                self._idle.pop(0)
