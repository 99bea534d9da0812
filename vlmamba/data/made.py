"""Many things made from their numbers, by one process a core."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

T = TypeVar("T")
Piece = TypeVar("Piece")


@cache
def pool() -> ProcessPoolExecutor:
    """The processes of this one, kept from one use to the next: a fork copies the page table of everything that was
    loaded by then, which for gigabytes of pictures takes longer than most of the work."""
    return ProcessPoolExecutor(os.cpu_count())


def in_pieces(work: Callable[[Sequence[Piece]], T], items: Sequence[Piece], size: int) -> list[T]:
    """`work` of every `size` items in a row, spread over the processes; `work` must be picklable."""
    return list(
        pool().map(work, [items[start : start + size] for start in range(0, len(items), size)])
    )


def made(make: Callable[[int], T], count: int, chunk: int = 1024) -> list[T]:
    """`make` of 0 to count - 1; `make` must be picklable, and goes along with every `chunk` numbers."""
    return [item for part in in_pieces(_Each(make), range(count), chunk) for item in part]


@dataclass(frozen=True)
class _Each(Generic[T]):
    """What a run of numbers becomes; a class, because processes need what they can name."""

    make: Callable[[int], T]

    def __call__(self, numbers: Sequence[int]) -> list[T]:
        return [self.make(number) for number in numbers]
