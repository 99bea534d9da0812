"""A training mixture that lives on the training device: pictures as uint8, dialogues as token ids.

A short GPU run cannot wait for pictures to be decoded, so every picture is decoded once, and a step only
indexes, augments and stacks. `batch(step)` is a pure function of the seed and the step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from vlmamba.data.augment import Policy, augment


@dataclass(frozen=True)
class Rows:
    """Dialogues about the pictures of one source: `picture` (n,), `input_ids` and `labels` (n, l), right-padded."""

    picture: NDArray[np.int64]
    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.picture)


@dataclass(frozen=True)
class Source:
    """One kind of picture: `pixels` (n, s, s, 3) uint8, its dialogues, how it is augmented, its share of a batch.

    `classes` (n,), where given, are the class indices of the pictures, out of `num_classes`.
    """

    name: str
    pixels: NDArray[np.uint8]
    rows: Rows
    policy: Policy
    share: float
    classes: NDArray[np.int64] | None = None
    num_classes: int = 0


@dataclass
class MixtureBatch:
    """A batch, source by source: `counts` says how many consecutive samples each source gave."""

    input_ids: Tensor
    labels: Tensor
    pixel_values: Tensor
    classes: Tensor  # -1 where a picture has no class
    counts: dict[str, int]


class Mixture:
    """Batches with a fixed share of every source, each source shuffled anew in every pass over it."""

    def __init__(
        self,
        sources: Sequence[Source],
        batch_size: int,
        image_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        total = sum(source.share for source in sources)
        self.counts = {s.name: max(1, round(batch_size * s.share / total)) for s in sources}
        self.image_size = image_size
        self.seed = seed
        self.device = torch.device(device)
        self.sources = [_OnDevice(source, self.device) for source in sources]

    def batch(self, step: int, policies: dict[str, Policy] | None = None) -> MixtureBatch:
        """The batch of a step; `policies` replaces the augmentation of the sources it names."""
        generator = Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        ids, labels, views, classes = [], [], [], []
        for source in self.sources:
            rows = source.draw(step, self.counts[source.name], self.seed)
            ids.append(source.input_ids[rows])
            labels.append(source.labels[rows])
            pictures = source.picture[rows]
            policy = (policies or {}).get(source.name, source.policy)
            view = augment(source.pixels[pictures], self.image_size, policy, generator)
            views.append(view.mul_(2).sub_(1))
            classes.append(source.classes[pictures])
        length = max(part.shape[1] for part in ids)
        return MixtureBatch(
            torch.cat([_widen(part, length, 1) for part in ids]),
            torch.cat([_widen(part, length, -100) for part in labels]),
            torch.cat(views),
            torch.cat(classes),
            self.counts,
        )


class _OnDevice:
    """A source's tensors on the device, and the order in which its rows come."""

    def __init__(self, source: Source, device: torch.device) -> None:
        self.name, self.policy, self.num_classes = source.name, source.policy, source.num_classes
        self.pixels = torch.from_numpy(source.pixels).to(device).permute(0, 3, 1, 2)
        self.picture = torch.from_numpy(source.rows.picture).to(device)
        self.input_ids = torch.from_numpy(source.rows.input_ids).to(device).long()
        self.labels = torch.from_numpy(source.rows.labels).to(device).long()
        classes = source.classes if source.classes is not None else np.full(len(source.pixels), -1)
        self.classes = torch.from_numpy(classes).to(device).long()
        self._pass, self._order = -1, torch.empty(0)

    def draw(self, step: int, count: int, seed: int) -> Tensor:
        """The `count` rows of a step; the last rows of a pass that do not fill a batch wait for the next pass."""
        per_pass = max(1, len(self.picture) // count)
        number, place = divmod(step, per_pass)
        if number != self._pass:
            shuffle = Generator().manual_seed(seed * 1_000_003 + number)
            order = torch.randperm(len(self.picture), generator=shuffle)
            self._pass, self._order = number, order.to(self.picture.device)
        rows = self._order[place * count : (place + 1) * count]
        if len(rows) < count:  # a source smaller than its share of one batch
            rows = rows.repeat(-(-count // len(rows)))[:count]
        return rows


def _widen(part: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, length - part.shape[1]), value=value)
