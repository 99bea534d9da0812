"""Which samples lie in a row together, so that hardly a position is left over.

Samples of one kind have like lengths, and the longest first into the fullest row (best-fit decreasing) leaves 6 % of
LLaVA's rows of 4096 empty. So the last two samples of a row are chosen together, to fill what is left exactly.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW = 512  # samples that a row is chosen from, and as many again; more is slower and no fuller
_STRIDE = 7919  # a prime: it picks samples of all lengths in turn


def fill_rows(
    numbers: Sequence[int], lengths: Sequence[int], max_length: int, window: int = WINDOW
) -> list[list[int]]:
    """Rows of samples, each of at most `max_length` tokens; a pure function of its arguments.

    Samples are taken window by window, in the given order: those that are left over when few are to choose from
    go on to the next window. No sample may be longer than a row.
    """
    rows: list[list[int]] = []
    left: list[int] = []
    for start in range(0, len(numbers), window):
        last = start + window >= len(numbers)
        shelf = _Shelf([*left, *numbers[start : start + window]], lengths)
        while len(shelf) > (0 if last else window // 2):
            rows.append(_row(shelf, max_length, turn=len(rows)))
        left = shelf.numbers
    return rows


def _row(shelf: "_Shelf", room: int, turn: int) -> list[int]:
    """The longest sample; some of any length while more than two would fit after them; and the best two or one."""
    row: list[int] = []

    def put(at: int) -> None:
        nonlocal room
        room -= int(shelf.sizes[at])
        row.append(shelf.take(at))

    put(len(shelf) - 1)
    while len(shelf) > 2:
        at = (turn + len(row)) * _STRIDE % len(shelf)
        shortest = int(shelf.sizes[0])
        if room < int(shelf.sizes[at]) + 2 * shortest:
            break
        put(at)
    while len(shelf) and room >= shelf.sizes[0]:
        for at in sorted(_best(shelf.sizes, room), reverse=True):
            put(at)
    return row


def _best(sizes: NDArray[np.int64], room: int) -> tuple[int, ...]:
    """The places of one or two of the ascending sizes that fill the room best; at least one fits."""
    one = int(np.searchsorted(sizes, room, side="right")) - 1
    partner = np.searchsorted(sizes, room - sizes, side="right") - 1
    places = np.arange(len(sizes))
    partner = np.minimum(partner, places - 1)  # another one, and each pair once
    pairs = np.where(partner >= 0, sizes + sizes[partner], 0)
    first = int(pairs.argmax())
    return (first, int(partner[first])) if pairs[first] > sizes[one] else (one,)


class _Shelf:
    """Samples by ascending length: `numbers`, and their `sizes`."""

    def __init__(self, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        self.numbers = sorted(numbers, key=lambda k: lengths[k])
        self.sizes = np.array([lengths[k] for k in self.numbers], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, at: int) -> int:
        self.sizes[at:-1] = self.sizes[at + 1 :]
        self.sizes = self.sizes[:-1]
        return self.numbers.pop(at)
