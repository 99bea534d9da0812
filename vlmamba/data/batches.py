"""What the training loop reads: batches as a pure function of a number, so that exact resume is only a number."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass
class Batch:
    """input_ids, labels (b, l), IGNORE_INDEX where nothing is learnt, and the pictures of all rows in order.

    Pictures stand in `pixel_values` (images, c, h, w), or as what a frozen tower made of them in
    `features` (images, p, d_vision). Rows of unequal length carry an `attention_mask` (b, l), 0 at padding;
    packed rows carry `reset` (b, l) bool, true where a sample begins. `sample_ids` name the samples, for the
    report when one is at fault; `num_tokens` counts real tokens (None: every position is one); `skipped` says
    which samples should be here and could not be read, and why. A subclass may add what its own objective needs.
    """

    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor | None = None
    features: Tensor | None = None
    attention_mask: Tensor | None = None
    reset: Tensor | None = None
    sample_ids: tuple[str, ...] = ()
    num_tokens: int | None = None
    skipped: tuple[str, ...] = ()

    @property
    def token_count(self) -> int:
        return self.input_ids.numel() if self.num_tokens is None else self.num_tokens

    @property
    def picture_count(self) -> int:
        shown = self.pixel_values if self.pixel_values is not None else self.features
        return 0 if shown is None else len(shown)

    def tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> "Batch":
        """The batch on `device`; the copy from pinned memory does not wait."""
        moved = {name: t.to(device, non_blocking=True) for name, t in self.tensors().items()}
        return replace(self, **moved)

    def pin(self) -> "Batch":
        """The batch in page-locked memory, from where a GPU copies while it computes."""
        pinned = {
            n: t.pin_memory() if t.device.type == "cpu" else t for n, t in self.tensors().items()
        }
        return replace(self, **pinned)


class Batches(Protocol):
    """An endless, numbered supply of batches.

    `batch(index)` is a pure function of the index (and of the seed the object was made with), for every
    index >= 0; `len` is how many batches make one epoch. Several threads may ask at once. Batches that may lack
    samples have a `budget` (vlmamba/data/samples.py) that says how many.
    """

    def __len__(self) -> int: ...

    def batch(self, index: int) -> Batch: ...


def in_order(
    batches: Batches, indices: Sequence[int], workers: int = 0, pin: bool = False
) -> Generator[Batch, None, None]:
    """The batches of `indices`, in their order; `workers` threads make the next ones meanwhile.

    Threads suffice: decoding pictures, tokenising and tensor work all release Python's lock.
    """

    def make(index: int) -> Batch:
        batch = batches.batch(index)
        return batch.pin() if pin else batch

    if workers == 0:
        yield from map(make, indices)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
    try:
        pending = deque(pool.submit(make, index) for index in indices[: 2 * workers])
        for index in indices[2 * workers :]:
            yield pending.popleft().result()
            pending.append(pool.submit(make, index))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
