"""A training mixture that lives on the training device: pictures as uint8, dialogues as token ids.

A short GPU run cannot wait for pictures to be decoded, so every picture is decoded once, and a step only
indexes, augments and stacks. `batch(step)` is a pure function of the seed and the step.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from vlmamba.data.augment import Policy, augment
from vlmamba.data.batches import Batch
from vlmamba.data.dialogues import Dialogue
from vlmamba.processing import IGNORE_INDEX, Processor, Turn


@dataclass(frozen=True)
class Source:
    """One kind of picture, and what is said about it.

    pixels (n, s, s, 3) uint8; `dialogues[j]` is about picture `picture[j]`; policy: how its views differ;
    share: its part of a batch. `classes` (n,), where given, are class indices out of `num_classes`.
    """

    name: str
    pixels: NDArray[np.uint8]
    picture: NDArray[np.int64]
    dialogues: Sequence[Dialogue]
    policy: Policy
    share: float
    classes: NDArray[np.int64] | None = None
    num_classes: int = 0


@dataclass(frozen=True)
class Rows:
    """Dialogues as tokens: input_ids and labels (n, l), right-padded."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]


@dataclass
class MixtureBatch(Batch):
    """A batch of pictures, source by source: `counts` says how many consecutive samples each source gave.

    `classes` (b,): the class of each picture in its source, -1 where it has none.
    """

    classes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    counts: dict[str, int] = field(default_factory=dict)


class Mixture:
    """Batches with a fixed share of every source, each source shuffled anew in every pass over it.

    The length is that of the longest pass: the steps in which every dialogue was seen at least once.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: Processor,
        batch_size: int,
        image_size: int,
        seed: int,
        max_text_tokens: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        total = sum(source.share for source in sources)
        self.counts = {s.name: max(1, round(batch_size * s.share / total)) for s in sources}
        self.image_size = image_size
        self.seed = seed
        self.device = torch.device(device)
        self.sources = [
            _OnDevice(
                source, encode(source.dialogues, processor, 1, max_text_tokens), seed, self.device
            )
            for source in sources
        ]

    def __len__(self) -> int:
        return max(len(s.picture) // self.counts[s.name] for s in self.sources)

    def batch(self, index: int) -> MixtureBatch:
        """The batch of a step, a pure function of the index."""
        generator = Generator(self.device).manual_seed(self.seed * 1_000_003 + index)
        ids, labels, views, classes = [], [], [], []
        for source in self.sources:
            rows = source.order.rows(index, self.counts[source.name]).to(self.device)
            ids.append(source.input_ids[rows])
            labels.append(source.labels[rows])
            pictures = source.picture[rows]
            view = augment(source.pixels[pictures], self.image_size, source.policy, generator)
            views.append(view.mul_(2).sub_(1))
            classes.append(source.classes[pictures])
        length = max(part.shape[1] for part in ids)
        return MixtureBatch(
            torch.cat([_widen(part, length, 1) for part in ids]),
            torch.cat([_widen(part, length, IGNORE_INDEX) for part in labels]),
            torch.cat(views),
            classes=torch.cat(classes),
            counts=self.counts,
        )


class Texts:
    """Batches of dialogues without pictures, for a language model alone; shuffled anew in every pass."""

    def __init__(
        self,
        dialogues: Sequence[Dialogue],
        processor: Processor,
        batch_size: int,
        seed: int,
        max_text_tokens: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = encode(dialogues, processor, 0, max_text_tokens)
        self.input_ids = torch.from_numpy(rows.input_ids).to(device).long()
        self.labels = torch.from_numpy(rows.labels).to(device).long()
        self.order = _Order(len(dialogues), seed)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return max(1, len(self.input_ids) // self.batch_size)

    def batch(self, index: int) -> Batch:
        rows = self.order.rows(index, self.batch_size).to(self.input_ids.device)
        return Batch(self.input_ids[rows], self.labels[rows])


def encode(
    dialogues: Sequence[Dialogue], processor: Processor, pictures: int, max_text_tokens: int
) -> Rows:
    """Ids and labels of dialogues about `pictures` pictures each; turns past `max_text_tokens` are left out."""
    limit = pictures * processor.num_patches + max_text_tokens
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        encoded = list(pool.map(_Encoding(processor, pictures, limit), dialogues, chunksize=512))
    length = max(len(ids) for ids, _ in encoded)
    input_ids = np.full((len(encoded), length), processor.pad_token_id, np.int32)
    labels = np.full((len(encoded), length), IGNORE_INDEX, np.int32)
    for row, (ids, wanted) in enumerate(encoded):
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = wanted
    return Rows(input_ids, labels)


@dataclass(frozen=True)
class _Encoding:
    """Ids and labels of one dialogue, as many turns as fit; a class, because processes need what they can name."""

    processor: Processor
    pictures: int
    limit: int

    def __call__(self, dialogue: Dialogue) -> tuple[list[int], list[int]]:
        for keep in range(len(dialogue), 0, -1):
            turns = []
            for number, (question, answer) in enumerate(dialogue[:keep]):
                pictures = self.pictures if number == 0 else 0
                turns += [Turn("user", question, pictures), Turn("assistant", answer)]
            ids, labels = self.processor.training_ids(turns)
            if len(ids) <= self.limit:
                return ids, labels
        raise ValueError(f"a single turn is longer than {self.limit} tokens: {dialogue[0]!r}")


class _Order:
    """The rows of each step: a new permutation in every pass, the same for the same seed."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._pass, self._permutation = -1, torch.empty(0)

    def rows(self, step: int, size: int) -> Tensor:
        """`size` rows; those that do not fill the last batch of a pass wait for the next pass."""
        number, place = divmod(step, max(1, self.count // size))
        if number != self._pass:
            shuffle = Generator().manual_seed(self.seed * 1_000_003 + number)
            self._pass, self._permutation = number, torch.randperm(self.count, generator=shuffle)
        rows = self._permutation[place * size : (place + 1) * size]
        return rows.repeat(-(-size // len(rows)))[:size]


class _OnDevice:
    """A source's tensors on the device."""

    def __init__(self, source: Source, rows: Rows, seed: int, device: torch.device) -> None:
        self.name, self.policy, self.num_classes = source.name, source.policy, source.num_classes
        self.pixels = torch.from_numpy(source.pixels).to(device).permute(0, 3, 1, 2)
        self.picture = torch.from_numpy(source.picture).to(device)
        self.input_ids = torch.from_numpy(rows.input_ids).to(device).long()
        self.labels = torch.from_numpy(rows.labels).to(device).long()
        classes = source.classes if source.classes is not None else np.full(len(source.pixels), -1)
        self.classes = torch.from_numpy(classes).to(device).long()
        self.order = _Order(len(source.picture), seed)


def _widen(part: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, length - part.shape[1]), value=value)
