"""What single patches of a picture of three boxes hold, counted: a tower learns from it what small shapes are where.

A patch of the mini's covers a quarter of a box, and a box as many as seven shapes, so a class a patch
(`patch_classes`) cannot say what it shows. A census is a row of small numbers instead, all of them below VALUES.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vlmamba.data.boxes import GAP_WIDTH, INKS, SHAPES, SIDE, WIDTH, Item

CELLS = 4  # a side: the cells of a patch, each with the kind of shape that covers it
KINDS = len(INKS) * len(SHAPES)
VALUES = 10
COVERED = 0.15  # of a cell that a shape must cover to count as shown
# Slots of a patch: its cells; middles of shapes by kind, and of those that touch an edge; then of the whole box that
# the patch lies in shapes by colour, by form, and all of them.
MIDDLES = CELLS * CELLS
TOUCHING = MIDDLES + KINDS
COLOURS = TOUCHING + KINDS
FORMS = COLOURS + len(INKS)
ALL = FORMS + len(SHAPES)
SLOTS = ALL + 1
OUTSIDE = (
    -1
)  # of patches above and below the boxes and between them, and of pictures that nobody has counted


def kind(item: Item) -> int:
    return len(SHAPES) * list(INKS).index(item.colour) + SHAPES.index(item.shape)


def census(boxes: Sequence[Sequence[Item]], grid: int) -> NDArray[np.int8]:
    """The boxes of a picture -> the slots (grid, grid, SLOTS) of its patches."""
    patch = WIDTH / grid
    cell = patch / CELLS
    above = (WIDTH - SIDE) / 2
    found = np.full((grid, grid, SLOTS), OUTSIDE, np.int8)
    for number, box in enumerate(boxes):
        left = number * (SIDE + GAP_WIDTH)
        rows = slice(int(above // patch), -int(-(above + SIDE) // patch))
        columns = slice(int(left // patch), -int(-(left + SIDE) // patch))
        here = found[rows, columns]
        here[:] = 0
        shares = np.zeros(
            (grid * CELLS, grid * CELLS)
        )  # of each cell that its greatest shape covers
        for item in box:
            x, y, its = left + item.x, above + item.y, kind(item)
            down, across = (_overlaps(at, item.size, cell, grid * CELLS) for at in (y, x))
            share = down[:, None] * across[None, :]
            larger = share > np.maximum(shares, COVERED)
            shares = np.maximum(shares, share)
            for row, column in np.argwhere(larger):
                slot = CELLS * (row % CELLS) + column % CELLS
                found[row // CELLS, column // CELLS, slot] = 1 + its
            middle = int((y + item.size / 2) // patch), int((x + item.size / 2) // patch)
            found[middle][MIDDLES + its] += 1
            found[middle][TOUCHING + its] += item.touches
        for k, colour in enumerate(INKS):
            here[..., COLOURS + k] = sum(item.colour == colour for item in box)
        for k, form in enumerate(SHAPES):
            here[..., FORMS + k] = sum(item.shape == form for item in box)
        here[..., ALL] = len(box)
    return found.clip(OUTSIDE, VALUES - 1)


def _overlaps(start: float, length: float, cell: float, cells: int) -> NDArray[np.float64]:
    """How much of each of `cells` cells in a row lies in a span, as parts of a cell."""
    edges = np.arange(cells + 1) * cell
    return (np.minimum(edges[1:], start + length) - np.maximum(edges[:-1], start)).clip(0) / cell
