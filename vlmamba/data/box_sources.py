"""Pictures of three boxes as sources of a mixture: those of NLVR with what people said of them, and made ones."""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from vlmamba.data import dialogues
from vlmamba.data.augment import LAYOUT
from vlmamba.data.box_pictures import BoxPictures
from vlmamba.data.boxes import Box, picture, structured
from vlmamba.data.census import census
from vlmamba.data.dialogues import Dialogue
from vlmamba.data.made import in_pieces
from vlmamba.data.mixture import Source
from vlmamba.data.packs import Pack

GRID = 8  # patches a side that a census is taken of
STILL = replace(LAYOUT, shift=0.0)  # the boxes stand in the same place in every picture


Painted = tuple[
    NDArray[np.uint8], NDArray[np.int8]
]  # pixels of pictures, and the census of their patches


def truth_source(pack: Pack, size: int, share: float) -> Source:
    """NLVR's pictures, their boxes in every order, and what people said about them, which holds in any order.

    Drawn anew from what NLVR writes down of them: but for smoother edges they equal the published pictures.
    """
    items = [pack.meta["items"][i] for i in pack.arrays["i"]]
    drawn = [order for item in items for order in permutations(structured(item["structured_rep"]))]
    orders = len(drawn) // len(items)
    told: list[Dialogue] = []
    for k in range(len(drawn)):
        item = items[k // orders]
        statement, holds = item["sentence"].strip(), item["label"] == "true"
        told.append([dialogues.truth(statement, holds, random.Random(k))])
    return _source(pack.name, in_pieces(partial(_painted, size), drawn, 256), told, share)


def boxes_source(boxes: BoxPictures, count: int, share: float) -> Source:
    """`count` made pictures of three boxes; each statement is a dialogue, since two would often be too long."""
    parts = in_pieces(partial(_made, boxes), range(count), 512)
    told = [[turn] for _, told in parts for turns in told for turn in turns]
    return _source("boxes", [painted for painted, _ in parts], told, share)


def _made(boxes: BoxPictures, numbers: Sequence[int]) -> tuple[Painted, list[Dialogue]]:
    drawn, told = zip(*map(boxes.told, numbers), strict=True)
    return _painted(boxes.size, drawn), list(told)


def _painted(size: int, drawn: Sequence[Sequence[Box]]) -> Painted:
    pixels = [np.asarray(picture(boxes, size)) for boxes in drawn]
    return np.stack(pixels), np.stack([census(boxes, GRID) for boxes in drawn])


def _source(name: str, painted: list[Painted], told: Sequence[Dialogue], share: float) -> Source:
    pixels, counted = (np.concatenate(parts) for parts in zip(*painted, strict=True))
    picture_of = np.repeat(np.arange(len(pixels)), len(told) // len(pixels))
    return Source(name, pixels, picture_of, told, STILL, share, census=counted)
