"""A plan's tensors as they are written: in their stored type, checked, one at a time."""

from collections.abc import Callable, Mapping
from functools import reduce
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from vlmamba.exchange.plan import TABLE, Plan
from vlmamba.weight_files import MAX_SHARD, check_finite, write_shards


class Store:
    """dtype: stored type of every tensor, None: its own. drawn: the tensors that no checkpoint gives, by name."""

    def __init__(
        self, plan: Plan, dtype: torch.dtype | None, drawn: Mapping[str, Tensor] | None = None
    ) -> None:
        self.plan = plan
        self.drawn = drawn or {}
        own = {name: p.dtype for name, p in plan.placed.items() if p.fate != "drawn"}
        # What a reader that knows one type only must read them as.
        self.dtype = dtype or reduce(torch.promote_types, own.values())
        fresh = own.get(TABLE, self.dtype)
        self.dtypes = {name: dtype or own.get(name, fresh) for name in plan.placed}

    def read(self, name: str) -> Tensor:
        """Raises CheckpointError for numbers that are not finite in the stored type."""
        placed = self.plan.placed[name]
        tensor = self.drawn[name] if placed.fate == "drawn" else placed.read()
        tensor = tensor.to(self.dtypes[name])
        check_finite(placed.published or name, tensor)
        return tensor

    def write(
        self,
        directory: Path,
        renamed: Callable[[str], str] = lambda name: name,
        max_shard: int = MAX_SHARD,
        also: Mapping[str, str] | None = None,
    ) -> None:
        """Writes them as safetensors under other names; `also`: further names, and which of them they repeat."""
        ours = {renamed(name): name for name in self.plan.placed} | dict(also or {})
        sizes = {
            written: prod(self.plan.placed[name].shape) * self.dtypes[name].itemsize
            for written, name in ours.items()
        }
        write_shards(directory, sizes, lambda written: self.read(ours[written]), max_shard)
