"""Samples: one conversation as ids and labels with its pictures, and how several become a batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vlmamba.data.batches import Batch
from vlmamba.data.faults import BadSampleError
from vlmamba.processing import IGNORE_INDEX, Processor

log = logging.getLogger("vlmamba")


@dataclass(frozen=True)
class Sample:
    """One conversation: its ids, its labels, the pictures in the order of their tokens, and its name."""

    name: str
    input_ids: Sequence[int]
    labels: Sequence[int]
    pictures: Sequence[Image.Image] = ()


class Samples(Protocol):
    """A numbered set of samples. `sample(k)` is a pure function of k; `lengths[k]` is its number of ids.

    `sample` raises BadSampleError for a picture that cannot be read.
    """

    @property
    def processor(self) -> Processor: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    def sample(self, k: int) -> Sample: ...


class TooManyBadError(RuntimeError):
    """More samples cannot be read than the data may lack."""


class Budget:
    """How many samples of an epoch may be unreadable while training: each is said, and skipped, never silently.

    Batches say what they lack (`Batch.skipped`); the loop, which alone sees all processes' batches, holds
    their number against `allowed`.
    """

    def __init__(self, share: float, samples: int) -> None:
        self.allowed = int(share * samples)
        self._said: set[int] = set()

    def readable(self, samples: Samples, numbers: Sequence[int]) -> tuple[list[Sample], list[str]]:
        """The samples of those numbers that can be read, and why the others cannot."""
        read, skipped = [], []
        for k in numbers:
            try:
                read.append(samples.sample(k))
            except BadSampleError as error:
                if k not in self._said:
                    log.warning("sample left out: %s", error)
                self._said.add(k)
                skipped.append(str(error))
        return read, skipped

    def exceeded(self, count: int, epochs: int = 1) -> TooManyBadError | None:
        """The error to end with when, in so many epochs begun, `count` samples were skipped; None within bounds."""
        allowed = self.allowed * epochs
        if count <= allowed:
            return None
        return TooManyBadError(
            f"{count:,} samples could not be read, max_bad allows {allowed:,}: the log names them, and "
            "`vlmamba data check` all that there are"
        )


def packed_batch(
    rows: Sequence[Sequence[Sample]], processor: Processor, skipped: Sequence[str] = ()
) -> Batch:
    """Rows of samples end to end, the state reset where one begins; shorter rows end in padding.

    The first label of a sample is not learnt: what stands before it is its neighbour. A batch of no sample at all
    is padding, from which nothing is learnt.
    """
    length = max([1, *(sum(len(s.input_ids) for s in row) for row in rows)])
    input_ids = np.full((len(rows), length), processor.pad_token_id)
    labels = np.full((len(rows), length), IGNORE_INDEX)
    reset = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        at = 0
        for sample in row:
            end = at + len(sample.input_ids)
            input_ids[i, at:end] = sample.input_ids
            labels[i, at:end] = sample.labels
            labels[i, at] = IGNORE_INDEX
            reset[i, at] = True
            at = end
        reset[i, at : at + 1] = True
    samples = [sample for row in rows for sample in row]
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        _pixels(samples, processor),
        reset=reset,
        sample_ids=tuple(sample.name for sample in samples),
        num_tokens=sum(len(sample.input_ids) for sample in samples),
        skipped=tuple(skipped),
    )


def padded_batch(
    samples: Sequence[Sample], processor: Processor, skipped: Sequence[str] = ()
) -> Batch:
    """One sample a row, padded on the right; one row of padding when there is no sample."""
    batch = packed_batch([[sample] for sample in samples] or [[]], processor, skipped)
    lengths = torch.tensor([len(sample.input_ids) for sample in samples] or [1])
    batch.reset = None
    batch.attention_mask = (torch.arange(batch.input_ids.shape[1]) < lengths[:, None]).long()
    return batch


def _pixels(samples: Sequence[Sample], processor: Processor) -> Tensor | None:
    pictures = [picture for sample in samples for picture in sample.pictures]
    return processor.pixel_values(pictures) if pictures else None
