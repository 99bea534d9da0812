"""What a frozen tower made of a mixture's pictures, kept: a model that trains behind it again and again reads this.

The pictures of a mixture are seen once, augmented as they come, and every run over the pool has the same ones, in an
order of its own.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from vlmamba.data.batches import Batch, Batches
from vlmamba.vision import VisionTower


@dataclass(frozen=True)
class Pool:
    """features (n, p, d_vision) with the input_ids and labels (n, l) of what was said about each picture."""

    features: Tensor
    input_ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @classmethod
    def fill(cls, tower: VisionTower, batches: Batches, number: int, dtype: torch.dtype) -> "Pool":
        """The samples of the first `number` of a mixture's batches, features stored as `dtype`."""
        features, input_ids, labels = [], [], []
        for batch in map(batches.batch, range(number)):  # their pixels are never held together
            assert batch.pixel_values is not None, "every sample of a mixture has a picture"
            features.append(look(tower, batch.pixel_values, dtype))
            input_ids.append(batch.input_ids)
            labels.append(batch.labels)
        return cls(torch.cat(features), torch.cat(input_ids), torch.cat(labels))


@torch.no_grad()
def look(tower: VisionTower, pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """What a tower makes of pictures (b, c, h, w), computed and kept as `dtype`: (b, p, d_vision)."""
    kind = pixel_values.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return tower(pixel_values).to(dtype)


class PoolBatches:
    """A pool in batches: shuffled anew in every pass, the same for the same seed."""

    def __init__(self, pool: Pool, batch_size: int, seed: int) -> None:
        self.pool, self.seed = pool, seed
        self.batch_size = min(batch_size, len(pool))
        self._pass, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        return len(self.pool) // self.batch_size

    def batch(self, index: int) -> Batch:
        number, place = divmod(index, len(self))
        if number != self._pass:
            shuffle = Generator().manual_seed(self.seed * 1_000_003 + number)
            order = torch.randperm(len(self.pool), generator=shuffle)
            self._pass, self._order = number, order.to(self.pool.input_ids.device)
        rows = self._order[place * self.batch_size : (place + 1) * self.batch_size]
        pool = self.pool
        return Batch(pool.input_ids[rows], pool.labels[rows], features=pool.features[rows])
