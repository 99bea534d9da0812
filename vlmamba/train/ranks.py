"""The processes of a run: one alone, or those that torchrun started, each with a device of its own."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    rendezvous,  # pyright: ignore[reportPrivateImportUsage]
)

log = logging.getLogger("vlmamba")
T = TypeVar("T")

# Long enough for one process to read a large data set or a checkpoint while the others wait.
_PATIENCE = timedelta(minutes=30)
_FAILED = (
    "failed"  # the key under which a process says in the common store that it ends with an error
)


class OtherRankError(RuntimeError):
    """Another process failed and has said why; this one has nothing to add."""


class Ranks:
    """This process among its equals: `rank` of `world`, computing on `device`.

    Made with a device alone it is the only one, and every method is as good as nothing. Decisions go over gloo
    on the CPU, in well under a millisecond on one host, so that they never wait for the device.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.device, self.rank, self.world = device, rank, world
        self._store: Store | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    @classmethod
    def start(cls) -> "Ranks":
        """Joins the other processes, as torchrun's environment names them; alone without it.

        Raises ValueError when torchrun started more processes on this host than it has GPUs.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(torch.device("cuda" if gpus else "cpu"))
        local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if gpus and here > gpus:
            raise ValueError(f"{here} processes for {gpus} GPUs: torchrun --nproc-per-node {gpus}")
        device = torch.device("cpu")
        if gpus:
            device = torch.device("cuda", local)
            torch.cuda.set_device(device)
        store, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=PrefixStore("vlmamba", store),
            rank=rank, world_size=world, timeout=_PATIENCE,
        )  # fmt: skip
        ranks = cls(device, rank, world)
        ranks._store = store
        return ranks

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Leaves the others. Of those that fail only the first goes on to report its error.

        The rest fail for the same reason, or because a connection broke when the first one left; those that wait
        for it are ended by torchrun.
        """
        if self._store is None:
            return
        if error is None:
            dist.destroy_process_group()
        elif isinstance(error, OtherRankError) or not self._fails_first(self._store):
            raise SystemExit(1) from error

    def _fails_first(self, store: Store) -> bool:
        try:
            return store.add(_FAILED, 1) == 1
        except RuntimeError:  # the store went with the process that kept it
            return False

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes.tolist())

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done within is done by every process, or all of them raise.

        The process where it failed raises its own error, the others OtherRankError. No collective may be within.
        """
        try:
            yield
        except Exception:
            self.any(True)
            raise
        if self.any(False)[0]:
            raise OtherRankError("another process failed")

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, which alone calls it."""
        made: list[Any] = [None]
        with self.together():
            if self.first:
                made = [make()]
        if self.world > 1:
            dist.broadcast_object_list(made)
        return made[0]

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor
