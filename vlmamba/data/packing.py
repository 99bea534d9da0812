"""Packing: samples laid end to end in rows of a fixed length, so that hardly a position is padding.

A state-space model packs exactly: the state is reset where a sample begins, so neighbours cannot be seen.
"""

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import torch

from vlmamba.data.batches import Batch
from vlmamba.data.grouping import even_chunks
from vlmamba.data.rows import fill_rows
from vlmamba.data.samples import Budget, Samples, packed_batch


class Packed:
    """Batches of `batch_size` packed rows of at most `max_length` tokens, reshuffled every epoch.

    Rows form one endless sequence over the epochs, so no sample is lost or repeated at an epoch's end. `together`
    consecutive batches, those of an optimiser step, have about as many tokens each: so have the processes that
    share the step.

    Raises ValueError when there is no sample, or one longer than a row.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        max_length: int,
        seed: int,
        max_bad: float = 0.005,
        together: int = 1,
    ) -> None:
        if not len(samples.lengths):
            raise ValueError("there is no sample to train on")
        if max(samples.lengths) > max_length:
            raise ValueError(
                f"a sample of {max(samples.lengths)} tokens does not fit a row of {max_length}"
            )
        self.samples, self.batch_size = samples, batch_size
        self.max_length, self.seed, self.together = max_length, seed, together
        self.budget = Budget(max_bad, len(samples.lengths))
        self._first_row = [0]  # of each epoch so far
        self._lock = Lock()  # several threads make batches
        self._rows = lru_cache(maxsize=2)(self._pack)

    def __len__(self) -> int:
        return -(-len(self._rows(0)) // self.batch_size)

    def batch(self, index: int) -> Batch:
        first = index * self.batch_size
        rows = [self.row(number) for number in range(first, first + self.batch_size)]
        read = [self.budget.readable(self.samples, row) for row in rows]
        skipped = [reason for _, reasons in read for reason in reasons]
        return packed_batch([samples for samples, _ in read], self.samples.processor, skipped)

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
        lengths = self.samples.lengths
        rows = fill_rows(shuffled(len(lengths), self.seed, epoch), lengths, self.max_length)
        loads = [sum(lengths[k] for k in row) for row in rows]
        dealt = _deal(shuffled(len(rows), self.seed, epoch), loads, self.batch_size, self.together)
        return [rows[k] for k in dealt]


def _deal(order: Sequence[int], loads: Sequence[int], batch_size: int, together: int) -> list[int]:
    """The rows of each `together` batches, dealt to them so that their loads are alike."""
    dealt: list[int] = []
    size = batch_size * together
    for start in range(0, len(order), size):
        fullest_first = sorted(order[start : start + size], key=lambda k: -loads[k])
        for chunk in even_chunks(fullest_first, loads, together):
            dealt += chunk
    return dealt


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The permutation of an epoch: a pure function of seed and epoch, the same for any number of workers."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
