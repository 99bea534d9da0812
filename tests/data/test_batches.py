"""Threads that make batches ahead: never more than they may, and none when nobody wants more."""

import threading
import time

import torch

from vlmamba.data.batches import Batch, in_order


class Counted:
    """Batches that count how many were made."""

    def __init__(self) -> None:
        self.made = 0
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return 100

    def batch(self, index: int) -> Batch:
        with self.lock:
            self.made += 1
        ids = torch.full((1, 1), index)
        return Batch(ids, ids)


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_no_more_batches_wait_than_two_a_worker():
    batches = Counted()
    supply = in_order(batches, range(100), workers=3)
    for taken in range(1, 20):
        assert int(next(supply).input_ids) == taken - 1
        time.sleep(0.005)  # in which workers could run ahead
        assert batches.made <= taken + 2 * 3
    supply.close()


def test_a_loop_that_ends_early_leaves_no_thread():
    batches = Counted()
    supply = in_order(batches, range(100), workers=3)
    next(supply)
    assert running()
    supply.close()
    assert not running()
    assert batches.made < 100
