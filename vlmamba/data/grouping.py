"""Length grouping: padded batches of samples of like length, in LLaVA's order (llava/train/llava_trainer.py)."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Generator

from vlmamba.data.batches import Batch
from vlmamba.data.samples import Budget, Samples, padded_batch


class Grouped:
    """Padded batches of `batch_size` samples, samples with and without pictures apart, shuffled every epoch.

    `together` consecutive batches, those of an optimiser step, have about as many tokens each: so have the processes
    that share the step.
    """

    def __init__(
        self,
        samples: Samples,
        has_picture: Sequence[bool],
        batch_size: int,
        seed: int,
        max_bad: float = 0.005,
        together: int = 1,
    ) -> None:
        if not len(samples.lengths):
            raise ValueError("there is no sample to train on")
        self.samples, self.batch_size, self.seed = samples, batch_size, seed
        self.together = together
        self.signed = [
            n if shows else -n for n, shows in zip(samples.lengths, has_picture, strict=True)
        ]
        self.budget = Budget(max_bad, len(samples.lengths))
        self.order = lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return -(-len(self.signed) // self.batch_size)

    def batch(self, index: int) -> Batch:
        epoch, place = divmod(index, len(self))
        order = self.order(epoch)
        numbers = order[place * self.batch_size : (place + 1) * self.batch_size]
        read, skipped = self.budget.readable(self.samples, numbers)
        return padded_batch(read, self.samples.processor, skipped)

    def _order(self, epoch: int) -> list[int]:
        generator = Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return grouped_order(self.signed, self.batch_size, self.together, generator)


def grouped_order(
    lengths: Sequence[int], batch_size: int, world_size: int, generator: Generator
) -> list[int]:
    """The order of an epoch: every batch of one modality and of like length, the leftovers last.

    lengths: positive for samples with a picture, negative for those without; none may be 0. Where all are
    without, the signed lengths are sorted, shortest first, as the official code does.
    """
    if not all(lengths):
        raise ValueError("a sample of length 0 belongs to neither modality")
    with_picture = [k for k, n in enumerate(lengths) if n > 0]
    without = [k for k, n in enumerate(lengths) if n < 0]
    size = batch_size * world_size
    if not with_picture or not without:
        return [
            k
            for mega in _megabatches(range(len(lengths)), lengths, size, world_size, generator)
            for k in mega
        ]
    full, rest = [], []
    magnitudes = [abs(n) for n in lengths]
    for numbers in (with_picture, without):
        megabatches = _megabatches(numbers, magnitudes, size, world_size, generator)
        full += megabatches[:-1]
        rest += megabatches[-1]
    shuffle = torch.randperm(len(full), generator=generator).tolist()
    return [k for m in shuffle for k in full[m]] + sorted(rest)


def _megabatches(
    numbers: Sequence[int], lengths: Sequence[int], size: int, world_size: int, generator: Generator
) -> list[list[int]]:
    """A permutation of `numbers` cut into pieces of `size`, each dealt out to `world_size` like loads."""
    shuffle = torch.randperm(len(numbers), generator=generator).tolist()
    order = [numbers[k] for k in shuffle]
    megabatches = []
    for start in range(0, len(order), size):
        longest_first = sorted(order[start : start + size], key=lambda k: -lengths[k])
        dealt = even_chunks(longest_first, lengths, world_size)
        megabatches.append([k for chunk in dealt for k in chunk])
    return megabatches


def even_chunks(numbers: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """`count` chunks of equal size and nearly equal total length; strided slices where they cannot be equal."""
    if len(numbers) % count:
        return [list(numbers[k::count]) for k in range(count)]
    capacity = len(numbers) // count
    chunks: list[list[int]] = [[] for _ in range(count)]
    loads: list[float] = [0.0] * count
    for number in numbers:
        lightest = loads.index(min(loads))
        chunks[lightest].append(number)
        loads[lightest] += lengths[number]
        if len(chunks[lightest]) == capacity:
            loads[lightest] = float("inf")
    return chunks
