"""Three boxes of towers or scattered shapes, as in the pictures of NLVR (Suhr et al., ACL 2017)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

INKS = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
SHAPES = ("square", "circle", "triangle")
GROUND, GAP = (211, 211, 211), (128, 128, 128)
BARS = (127, 127, 127)  # with which the processor makes a picture a square
SIDE, GAP_WIDTH = 100, 50
WIDTH = 3 * SIDE + 2 * GAP_WIDTH


@dataclass(frozen=True)
class Item:
    """A shape in a box of 100 x 100: its upper left corner and its size."""

    shape: str
    colour: str
    x: int
    y: int
    size: int

    @property
    def touches(self) -> bool:
        return self.x <= 0 or self.y <= 0 or self.x + self.size >= 100 or self.y + self.size >= 100


Box = list[Item]


def picture(boxes: Sequence[Box], size: int) -> Image.Image:
    """The boxes in a row, 400 x 100, between grey bars that make them a square; size: a multiple of 16.

    Only a strip is drawn and reduced: the bars are the same everywhere.
    """
    above = SIDE // 4
    strip = Image.new("RGB", (WIDTH, SIDE + 2 * above), BARS)
    pen = ImageDraw.Draw(strip)
    pen.rectangle((0, above, WIDTH, above + SIDE - 1), fill=GAP)
    for number, box in enumerate(boxes):
        left = number * (SIDE + GAP_WIDTH)
        pen.rectangle((left, above, left + SIDE - 1, above + SIDE - 1), fill=GROUND)
        for item in box:
            x, y, s = left + item.x, above + item.y, item.size
            fill = INKS[item.colour]
            if item.shape == "square":
                pen.rectangle((x, y, x + s - 1, y + s - 1), fill=fill)
            elif item.shape == "circle":
                pen.ellipse((x, y, x + s - 1, y + s - 1), fill=fill)
            else:
                pen.polygon([(x, y + s - 1), (x + s / 2, y), (x + s - 1, y + s - 1)], fill=fill)
    whole = Image.new("RGB", (size, size), BARS)
    reduced = strip.resize((size, size * strip.height // WIDTH), Image.Resampling.BICUBIC)
    whole.paste(reduced, (0, (size - reduced.height) // 2))
    return whole


def structured(rep: list[list[dict[str, Any]]]) -> list[Box]:
    """Boxes as NLVR writes them down (`structured_rep`)."""
    colours = {"Black": "black", "#0099ff": "blue", "Yellow": "yellow"}
    return [
        [Item(i["type"], colours[i["color"]], i["x_loc"], i["y_loc"], i["size"]) for i in box]
        for box in rep
    ]


def tower(rng: random.Random) -> Box:
    """One to four blocks on top of each other, lowest first."""
    return [
        Item("square", rng.choice(list(INKS)), 40, 80 - 21 * k, 20)
        for k in range(rng.randint(1, 4))
    ]


def scatter(rng: random.Random) -> Box:
    """One to seven shapes that do not overlap, many of them at an edge, as often as in NLVR."""
    box: Box = []
    wanted = rng.randint(1, 7)
    while len(box) < wanted:
        size = rng.choice((10, 20, 30))
        x, y = rng.randint(0, SIDE - size), rng.randint(0, SIDE - size)
        if rng.random() < 0.35:
            x, y = rng.choice(((0, y), (SIDE - size, y), (x, 0), (x, SIDE - size)))
        free = all(
            x + size < i.x or i.x + i.size < x or y + size < i.y or i.y + i.size < y for i in box
        )
        if free:
            box.append(Item(rng.choice(SHAPES), rng.choice(list(INKS)), x, y, size))
    return box
