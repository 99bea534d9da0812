"""Samples: one conversation as ids and labels with its pictures, and how several become a batch."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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


class Budget:
    """How many samples may fail while training before the run must stop: said each time, never silent.

    Counts what this process met, each sample once. With several processes each batch says what it lacks
    (`Batch.skipped`), and the loop holds the sum against `allowed`.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.failed: dict[int, str] = {}

    def readable(self, samples: Samples, numbers: Sequence[int]) -> tuple[list[Sample], list[str]]:
        """The samples of those numbers that can be read, and why the others cannot.

        Raises ValueError when too many cannot.
        """
        read, skipped = [], []
        for k in numbers:
            try:
                read.append(samples.sample(k))
            except BadSampleError as error:
                if k not in self.failed:
                    log.warning("sample left out: %s", error)
                self.failed[k] = str(error)
                skipped.append(str(error))
        check_budget(len(self.failed), self.allowed, skipped)
        return read, skipped


def check_budget(count: int, allowed: int, skipped: Sequence[str]) -> None:
    """Raises ValueError when `count` samples could not be read, the last of which are `skipped`."""
    if count > allowed:
        last = f"; the last: {skipped[-1]}" if skipped else ""
        raise ValueError(
            f"{count:,} samples could not be read, {allowed:,} may be (max_bad){last}; "
            "`vlmamba data check` names all of them"
        )


def packed_batch(
    rows: Sequence[Sequence[Sample]], processor: Processor, skipped: Sequence[str] = ()
) -> Batch:
    """Rows of samples end to end, the state reset where one begins; shorter rows end in padding.

    The first label of a sample is not learnt: what stands before it is its neighbour. A batch of no sample at all
    is padding, from which nothing is learnt.
    """
    length = max([1, *(sum(len(s.input_ids) for s in row) for row in rows)])
    input_ids = torch.full((len(rows), length), processor.pad_token_id)
    labels = torch.full((len(rows), length), IGNORE_INDEX)
    reset = torch.zeros((len(rows), length), dtype=torch.bool)
    for i, row in enumerate(rows):
        at = 0
        for sample in row:
            end = at + len(sample.input_ids)
            input_ids[i, at:end] = torch.tensor(sample.input_ids)
            labels[i, at:end] = torch.tensor(sample.labels)
            labels[i, at] = IGNORE_INDEX
            reset[i, at] = True
            at = end
        reset[i, at : at + 1] = True
    samples = [sample for row in rows for sample in row]
    return Batch(
        input_ids,
        labels,
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
