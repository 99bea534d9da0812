"""Three boxes of towers or scattered shapes, and statements about them that are true or false, half and half.

Pictures and statements are of the kind that NLVR collected from people (Suhr et al., ACL 2017); both are made here.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw

from vlmamba.data.dialogues import Dialogue, truth

INKS = {"black": (0, 0, 0), "blue": (0, 153, 255), "yellow": (255, 255, 0)}
SHAPES = ("square", "circle", "triangle")
NUMBER = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
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
# A statement that holds or not: boxes and randomness -> words and truth.
Claim = Callable[[list[Box], random.Random], tuple[str, bool]]


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
        towers = rng.random() < 0.5
        boxes = [_tower(rng) if towers else _scatter(rng) for _ in range(3)]
        claims = TOWER_CLAIMS if towers else SCATTER_CLAIMS
        return boxes, [truth(*_balanced(boxes, claims, rng), rng) for _ in range(2)]


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


def _tower(rng: random.Random) -> Box:
    """One to four blocks on top of each other, lowest first."""
    return [
        Item("square", rng.choice(list(INKS)), 40, 80 - 21 * k, 20)
        for k in range(rng.choice((1, 2, 3, 4)))
    ]


def _scatter(rng: random.Random) -> Box:
    """One to eight shapes that do not overlap, some at an edge."""
    box: Box = []
    for _ in range(rng.randint(1, 8)):
        size = rng.choice((10, 20, 20, 30))
        x, y = rng.randint(0, 100 - size), rng.randint(0, 100 - size)
        if rng.random() < 0.35:
            x, y = rng.choice(((0, y), (100 - size, y), (x, 0), (x, 100 - size)))
        free = all(
            x + size < i.x or i.x + i.size < x or y + size < i.y or i.y + i.size < y for i in box
        )
        if free:
            box.append(Item(rng.choice(SHAPES), rng.choice(list(INKS)), x, y, size))
    return box


def _balanced(boxes: list[Box], claims: list[Claim], rng: random.Random) -> tuple[str, bool]:
    """A claim that is as often true as false: the wanted truth is drawn first, then claims until one has it."""
    wanted = rng.random() < 0.5
    words, holds = rng.choice(claims)(boxes, rng)
    for _ in range(40):
        if holds == wanted:
            break
        words, holds = rng.choice(claims)(boxes, rng)
    return _typed(words, rng), holds


def _typed(words: str, rng: random.Random) -> str:
    """As people type: capital or not, full stop or not."""
    words = words[:1].upper() + words[1:] if rng.random() < 0.8 else words
    return words + "." if rng.random() < 0.6 else words


def _amount(rng: random.Random, highest: int) -> tuple[str, str, Callable[[int], bool]]:
    """A number in words or digits with what is asked of it; the words, the verb, and whether a count fits."""
    n = rng.randint(1, highest)
    number = NUMBER[n] if rng.random() < 0.5 else str(n)
    form = rng.choice(("", "exactly ", "only ", "at least ", "at most "))
    verb = "is" if n == 1 else "are"
    fits = {
        "at least ": lambda count: count >= n,
        "at most ": lambda count: count <= n,
    }.get(form, lambda count: count == n if form else count >= n)
    return form + number, verb, fits


def _many(words: str, noun: str, rng: random.Random) -> str:
    return noun if words.split()[-1] in ("one", "1") else f"{noun}s"


def _noun(rng: random.Random) -> str:
    return rng.choice(("item", "object", "shape"))


def _kind(rng: random.Random) -> tuple[str, Callable[[Item], bool]]:
    """A description of items, and whether one fits it."""
    colour, shape = rng.choice(list(INKS)), rng.choice(SHAPES)
    form = rng.randrange(3)
    if form == 0:
        return f"{colour} {_noun(rng)}", lambda i: i.colour == colour
    if form == 1:
        return shape, lambda i: i.shape == shape
    return f"{colour} {shape}", lambda i: i.shape == shape and i.colour == colour


def _boxes_with_items(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    amount, verb, fits = _amount(rng, 2)
    name, match = _kind(rng)
    each = rng.randint(1, 3)
    number = NUMBER[each] if rng.random() < 0.5 else str(each)
    count = sum(sum(map(match, box)) == each for box in boxes)
    items = _many(number, name, rng)
    return f"there {verb} {amount} {_many_box(amount)} with {number} {items}", fits(count)


def _many_box(words: str) -> str:
    return "box" if words.split()[-1] in ("one", "1") else "boxes"


def _items_in_all(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    amount, verb, fits = _amount(rng, 5)
    name, match = _kind(rng)
    count = sum(match(item) for box in boxes for item in box)
    return f"there {verb} {amount} {_many(amount, name, rng)}", fits(count)


def _touching(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    name, match = _kind(rng)
    count = sum(match(i) and i.touches for box in boxes for i in box)
    where = rng.choice(("touching the edge", "touching the wall", "touching a side of a box"))
    if rng.random() < 0.5:
        return f"there is a {name} {where}", count > 0
    amount, verb, fits = _amount(rng, 3)
    return f"there {verb} {amount} {_many(amount, name, rng)} {where}", fits(count)


def _box_total(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    amount, _, fits = _amount(rng, 7)
    hits = sum(fits(len(box)) for box in boxes)
    return f"there is a box with {amount} {_many(amount, _noun(rng), rng)}", hits > 0


def _every_box(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    name, match = _kind(rng)
    word = rng.choice(("every box", "each box"))
    return f"{word} contains a {name}", all(any(map(match, box)) for box in boxes)


def _no_such(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    name, match = _kind(rng)
    return f"there is no {name}", not any(match(i) for box in boxes for i in box)


def _colours_in_box(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    n = rng.randint(1, 3)
    hits = sum(len({i.colour for i in box}) == n for box in boxes)
    words = "only one colour" if n == 1 else f"{NUMBER[n]} different colours"
    return f"there is a box with items of {words}", hits > 0


def _tower_end(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    colour, top = rng.choice(list(INKS)), rng.random() < 0.5
    ends = [box[-1 if top else 0].colour == colour for box in boxes]
    place = rng.choice(("at the top", "on top") if top else ("at the base", "at the bottom"))
    form = rng.randrange(3)
    if form == 0:
        return f"there is a tower with a {colour} block {place}", any(ends)
    if form == 1:
        amount, verb, fits = _amount(rng, 3)
        towers = _many(amount, "tower", rng)
        return f"there {verb} {amount} {towers} with a {colour} block {place}", fits(sum(ends))
    return f"there is no {colour} block as the {'top' if top else 'base'} of a tower", not any(ends)


def _tower_height(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    amount, _, fits = _amount(rng, 4)
    hits = sum(fits(len(box)) for box in boxes)
    blocks = _many(amount, "block", rng)
    if rng.random() < 0.5:
        return f"there is a tower with {amount} {blocks}", hits > 0
    many, verb, enough = _amount(rng, 3)
    return f"there {verb} {many} {_many(many, 'tower', rng)} with {amount} {blocks}", enough(hits)


def _tower_end_and_height(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    colour, top = rng.choice(list(INKS)), rng.random() < 0.5
    n = rng.randint(1, 4)
    hits = [len(box) == n and box[-1 if top else 0].colour == colour for box in boxes]
    blocks = "block" if n == 1 else "blocks"
    end = "top" if top else "base"
    words = f"there is a {colour} block as the {end} of a tower with exactly {NUMBER[n]} {blocks}"
    return words, any(hits)


def _blocks(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    colour = rng.choice(list(INKS))
    amount, verb, fits = _amount(rng, 6)
    count = sum(i.colour == colour for box in boxes for i in box)
    return f"there {verb} {amount} {colour} {_many(amount, 'block', rng)}", fits(count)


def _single_colour(boxes: list[Box], rng: random.Random) -> tuple[str, bool]:
    colour = rng.choice(list(INKS))
    hits = [all(i.colour == colour for i in box) for box in boxes]
    if rng.random() < 0.5:
        return f"there is a {colour} tower", any(hits)
    return f"there is a tower with only {colour} blocks", any(hits)


TOWER_CLAIMS: list[Claim] = [
    _tower_end, _tower_end, _tower_height, _tower_height, _tower_end_and_height, _blocks, _single_colour,
]  # fmt: skip
SCATTER_CLAIMS: list[Claim] = [
    _boxes_with_items, _items_in_all, _items_in_all, _touching, _touching, _box_total, _every_box, _no_such,
    _colours_in_box,
]  # fmt: skip
