"""Work spread over processes: results in order, a bounded number under way, and no process left behind."""

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_task: Callable[[Any], Any] | None = None  # of this process


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(
    task: Callable[[Piece], Result], pieces: Sequence[Piece], processes: int
) -> Generator[Result, None, None]:
    """`task` of every piece, in their order. The task is pickled once a process, and must be picklable.

    Raises RuntimeError when a process dies, as the system's killer of large ones may do to it.
    """
    processes = min(processes, len(pieces))
    if processes <= 1:
        yield from map(task, pieces)
        return
    # Forked processes would share the locks of torch's threads.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (task,))
    try:
        with _deaf_to_interrupts():  # processes are started here, and inherit it
            pending = deque(pool.submit(_work, piece) for piece in pieces[: 3 * processes])
        for piece in pieces[3 * processes :]:
            yield pending.popleft().result()
            pending.append(pool.submit(_work, piece))
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a reading process was ended from outside: is there memory for so many?"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C, which a terminal sends to all processes, waits; to those that are started inside, for ever."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(task: Callable[[Any], Any]) -> None:
    """Makes this process a worker: Ctrl-C is the parent's affair, and without a parent it ends."""
    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("vlmamba").setLevel(logging.ERROR)  # what is worth saying is in the result
    threading.Thread(target=_outlive_nobody, daemon=True).start()


def _outlive_nobody() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(piece: Any) -> Any:
    assert _task is not None
    return _task(piece)
