"""Work that is shared out over any number of processes on one output folder, and never done twice.

A job is done when its file exists; whoever holds the lock beside that file is doing it. A POSIX lock is a process's
own: it ends with it, however that ends, and processes that it forks have no part in it. So what was begun by a process
that is gone is begun anew by the next one.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

POLL = 0.5  # seconds between two looks at what others do


@dataclass(frozen=True)
class Job:
    """Something that ends with the file `result`, and can begin when the files `needs` exist; jobs of one `kind` take
    about as long as each other."""

    kind: str
    result: Path
    do: Callable[[], None]
    needs: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        return self.result.exists()

    @property
    def ready(self) -> bool:
        return not self.done and all(path.exists() for path in self.needs)


def work(jobs: Sequence[Job], deadline: float = float("inf")) -> bool:
    """Does what is left of the jobs, in their order where others leave it; returns whether all are done.

    None is begun after `deadline` (`time.monotonic`), nor so late that it would end after that if it took as long as
    the longest of its kind before it.
    """
    longest: dict[str, float] = {}
    while not all(job.done for job in jobs):
        started = time.monotonic()
        timely = [job for job in jobs if started + longest.get(job.kind, 0.0) <= deadline]
        if not any(not job.done for job in timely):
            return False
        done = next((job for job in timely if job.ready and _do(job)), None)
        if done is None:
            time.sleep(POLL)
        else:
            longest[done.kind] = max(longest.get(done.kind, 0.0), time.monotonic() - started)
    return True


def _do(job: Job) -> bool:
    """Does a job unless someone else does it; returns whether it was done here."""
    with trying_lock(job.result.with_name(f"{job.result.name}.lock")) as mine:
        if mine and not job.done:  # by another process, between our look and our lock
            job.do()
            return True
    return False


@contextmanager
def trying_lock(path: Path) -> Iterator[bool]:
    """Whether this process got the lock; it is given back at the end."""
    with path.open("a") as file:
        yield _lock(file, fcntl.LOCK_NB)


@contextmanager
def holding_lock(path: Path) -> Iterator[None]:
    """Waits for the lock, and gives it back at the end."""
    with path.open("a") as file:
        _lock(file, 0)
        yield


def _lock(file: IO[str], wait: int) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | wait)
    except (BlockingIOError, PermissionError):
        return False
    return True
