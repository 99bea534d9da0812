"""What single patches of a made picture show: a letter of the word, a part or the middle of a thing, or neither.

Whoever makes a picture knows what lies where, and telling a tower so, patch by patch, teaches it to read and to count
long before answers about whole pictures would (`train/tower.py`).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlmamba.data.words import CHARACTERS

NO_LETTER = 0  # 1 to 37: the characters of `words.spelt`
NO_THING = len(CHARACTERS) + 2  # from here: 1 + 2 k a part of a thing of kind k, 2 + 2 k its middle
KINDS = 9
PATCH_CLASSES = NO_THING + 1 + 2 * KINDS
UNKNOWN = -1  # of pictures whose patches nobody has told
COVERED = 0.3  # of a patch that a thing must cover to count as shown


def patch_weights() -> list[float]:
    """How much each class counts: patches without anything are many and easy, middles are few."""
    weights = [1.0] * PATCH_CLASSES
    weights[NO_LETTER] = weights[NO_THING] = 0.25
    for kind in range(KINDS):
        weights[NO_THING + 2 + 2 * kind] = 2.0
    return weights


def letters_at(x: Tensor, y: Tensor, edges: Tensor, letters: Tensor) -> Tensor:
    """x, y (b, p): places of patches in words, whose own edges are -1 and 1; edges (b, k + 1): where letters begin
    and end, 0 to 1 from left to right; letters (b, k) -> the class (b, p) of each place."""
    at = torch.searchsorted(edges[:, 1:].contiguous(), (x.contiguous() + 1) / 2)
    found = letters.gather(1, at.clamp(max=letters.shape[1] - 1))
    return torch.where((x.abs() <= 1) & (y.abs() <= 1), found, NO_LETTER)


def things_at(
    covers: NDArray[np.uint8], middles: Sequence[tuple[float, float]], grid: int
) -> NDArray[np.int64]:
    """covers (s, s): 0, or 1 + the kind of the thing that covers a pixel; middles: of the things, as parts of the side
    -> the classes (grid, grid) of the patches."""
    size = len(covers) // grid
    cells = covers[: size * grid, : size * grid].reshape(grid, size, grid, size)
    there = np.union1d(covers, 0)
    shares = np.stack([(cells == kind).mean((1, 3)) for kind in there])
    covered, shares[0] = 1 - shares[0], 0.0
    most = there[shares.argmax(0)].astype(np.int64)  # the kind that covers most of a patch
    kinds = np.where(covered >= COVERED, most, 0)
    for x, y in middles:
        row, column = (min(grid - 1, max(0, int(at * grid))) for at in (y, x))
        kind = (
            covers[
                min(len(covers) - 1, int(y * len(covers))),
                min(len(covers) - 1, int(x * len(covers))),
            ]
            or cells[row, :, column].max()
        )
        kinds[row, column] = -int(kind)
    parts = np.where(kinds > 0, NO_THING + 2 * kinds - 1, NO_THING)
    return np.where(kinds < 0, NO_THING - 2 * kinds, parts)
