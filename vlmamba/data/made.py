"""Many things made from their numbers, by one process a core."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


def made(make: Callable[[int], T], count: int, chunk: int = 256) -> list[T]:
    """`make` of 0 to count - 1; `make` must be picklable."""
    starts = range(0, count, chunk)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return [item for part in pool.map(_Chunk(make, chunk, count), starts) for item in part]


@dataclass(frozen=True)
class _Chunk(Generic[T]):
    """What a run of numbers becomes; a class, because processes need what they can name."""

    make: Callable[[int], T]
    size: int
    count: int

    def __call__(self, start: int) -> list[T]:
        return [self.make(index) for index in range(start, min(start + self.size, self.count))]
