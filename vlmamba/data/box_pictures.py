"""Made pictures of three boxes, with statements about them that are true or false, half and half."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image

from vlmamba.data.box_claims import Claim
from vlmamba.data.boxes import Box, picture, scatter, tower
from vlmamba.data.dialogues import Dialogue, truth
from vlmamba.data.scatter_claims import SCATTER_CLAIMS
from vlmamba.data.tower_claims import TOWER_CLAIMS

TOWERS = 0.6  # of the pictures; of NLVR's two thirds
TURNS = 2  # statements about a picture
POOL = 8  # pictures on which a statement's truth is tried


@dataclass(frozen=True)
class BoxPictures:
    """Pictures of three boxes in a row, padded to a square as the processor pads, with dialogues."""

    size: int
    seed: int = 0

    def draw(self, index: int) -> tuple[Image.Image, Dialogue]:
        boxes, dialogue = self.told(index)
        return picture(boxes, self.size), dialogue

    def told(self, index: int) -> tuple[list[Box], Dialogue]:
        """The boxes of a picture, and what is asked of them."""
        rng = random.Random(f"{self.seed}/{index}/boxes")
        make, claims = (tower, TOWER_CLAIMS) if rng.random() < TOWERS else (scatter, SCATTER_CLAIMS)
        boxes = [make(rng) for _ in range(3)]
        return boxes, [truth(*balanced(boxes, claims, _pool(make), rng), rng) for _ in range(TURNS)]


@cache
def _pool(make: Callable[[random.Random], Box]) -> list[list[Box]]:
    rng = random.Random(0)
    return [[make(rng) for _ in range(3)] for _ in range(POOL)]


def balanced(
    boxes: list[Box], claims: Sequence[Claim], pool: list[list[Box]], rng: random.Random
) -> tuple[str, bool]:
    """A statement about boxes that words alone do not give away.

    "None of the towers ..." is true of most pictures. So the more often a statement has its truth on other pictures
    than not, the more often it is passed over.
    """
    while True:
        claim, seed = rng.choice(claims), rng.random()
        words, holds = claim(boxes, random.Random(seed))
        if holds is None:
            continue
        elsewhere = [claim(others, random.Random(seed))[1] for others in pool]
        if rng.random() * (1 + elsewhere.count(holds)) < 1 + elsewhere.count(not holds):
            return _typed(words, rng), holds


def _typed(words: str, rng: random.Random) -> str:
    """As people type: capital or not, full stop or not."""
    words = words[:1].upper() + words[1:] if rng.random() < 0.8 else words
    return words + "." if rng.random() < 0.5 else words
