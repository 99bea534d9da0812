"""Packing: samples laid end to end in rows of a fixed length, so that hardly a position is padding.

A state-space model packs exactly: the state is reset where a sample begins, so neighbours cannot be seen.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import torch

from vlmamba.data.batches import Batch
from vlmamba.data.samples import Budget, Samples, packed_batch

WINDOW = 4096  # samples packed together; a larger window wastes less and mixes less


class Packed:
    """Batches of `batch_size` packed rows of at most `max_length` tokens, reshuffled every epoch.

    Rows form one endless sequence over the epochs, so no sample is lost or repeated at an epoch's end.
    Raises ValueError when there is no sample, or one longer than a row.
    """

    def __init__(
        self, samples: Samples, batch_size: int, max_length: int, seed: int, max_bad: float = 0.005
    ) -> None:
        if not len(samples.lengths):
            raise ValueError("there is no sample to train on")
        if max(samples.lengths) > max_length:
            raise ValueError(
                f"a sample of {max(samples.lengths)} tokens does not fit a row of {max_length}"
            )
        self.samples, self.batch_size = samples, batch_size
        self.max_length, self.seed = max_length, seed
        self.budget = Budget(int(max_bad * len(samples.lengths)))
        self._first_row = [0]  # of each epoch so far
        self._lock = Lock()  # several threads make batches
        self._rows = lru_cache(maxsize=2)(self._pack)

    def __len__(self) -> int:
        return -(-len(self._rows(0)) // self.batch_size)

    def batch(self, index: int) -> Batch:
        first = index * self.batch_size
        rows = [self.row(number) for number in range(first, first + self.batch_size)]
        read = [self.budget.readable(self.samples, row) for row in rows]
        return packed_batch(read, self.samples.processor)

    def row(self, number: int) -> Sequence[int]:
        """The numbers of the samples in a row."""
        epoch = 0
        with self._lock:
            while True:
                if epoch + 1 == len(self._first_row):
                    self._first_row.append(self._first_row[epoch] + len(self._rows(epoch)))
                if number < self._first_row[epoch + 1]:
                    return self._rows(epoch)[number - self._first_row[epoch]]
                epoch += 1

    def _pack(self, epoch: int) -> list[list[int]]:
        order = shuffled(len(self.samples.lengths), self.seed, epoch)
        rows = pack_all(order, self.samples.lengths, self.max_length)
        return [rows[k] for k in shuffled(len(rows), self.seed, epoch)]


def pack_all(
    numbers: Sequence[int], lengths: Sequence[int], max_length: int, window: int = WINDOW
) -> list[list[int]]:
    """Rows of samples, window by window in the given order; the emptiest row of a window goes on to the next."""
    rows: list[list[int]] = []
    left: list[int] = []
    for start in range(0, len(numbers), window):
        packed = pack([*left, *numbers[start : start + window]], lengths, max_length)
        left = min(packed, key=lambda row: sum(lengths[k] for k in row))
        rows += (row for row in packed if row is not left)
    return [*rows, left] if left else rows


def pack(numbers: Sequence[int], lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Best-fit decreasing: the longest sample first, each into the fullest row that still holds it."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (free tokens, row), ascending
    for k in sorted(numbers, key=lambda k: -lengths[k]):
        place = bisect_left(room, (lengths[k], -1))
        if place == len(room):
            rows.append([])
            free, row = max_length, len(rows) - 1
        else:
            free, row = room.pop(place)
        rows[row].append(k)
        insort(room, (free - lengths[k], row))
    return rows


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The permutation of an epoch: a pure function of seed and epoch, the same for any number of workers."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
