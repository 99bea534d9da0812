"""One of several processes that torchrun started, or the only one."""

import os
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Processes:
    """This process's number, how many there are, and its number on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> "Processes":
        """As torchrun says. Raises ValueError for numbers that are none."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        values = [os.environ.get(name, default) for name, default in zip(names, "010", strict=True)]
        if not all(value.isdecimal() for value in values):
            raise ValueError(f"RANK, WORLD_SIZE and LOCAL_RANK must be whole numbers, not {values}")
        rank, world_size, local_rank = map(int, values)
        return cls(rank, max(world_size, 1), local_rank)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait_for_all(self) -> None:
        """Returns when every process has come here; fails when one has died."""
        if self.world_size == 1:
            return
        from torch import distributed

        if not distributed.is_initialized():
            # Shares take unequal time, and a large benchmark takes hours.
            distributed.init_process_group("gloo", timeout=timedelta(days=7))
        distributed.barrier()

    def part(self) -> None:
        """Ends the connection to the others."""
        if self.world_size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def device(self, named: str | None) -> str | None:
        """The device that was named, else this process's own GPU where there are several processes."""
        if named is not None or self.world_size == 1:
            return named
        from torch import cuda

        return f"cuda:{self.local_rank % cuda.device_count()}" if cuda.is_available() else "cpu"
