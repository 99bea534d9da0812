"""Statements about three boxes of scattered shapes."""

import random
from collections.abc import Callable
from functools import partial

from vlmamba.data.box_claims import (
    Claim,
    Phrase,
    Truth,
    amount_of,
    colour_of,
    inks,
    joined,
    number,
    plural,
    some,
)
from vlmamba.data.boxes import INKS, SHAPES, SIDE, Box, Item


def _noun(rng: random.Random) -> str:
    return rng.choice(("item", "item", "object", "object", "shape"))


Kind = tuple[str, Callable[[Item], bool]]  # what items are called, and whether one is so


def _kind(rng: random.Random) -> Kind:
    """A description of items, and whether one fits it."""
    colour, shape = colour_of(rng), rng.choice(SHAPES)
    form = rng.randrange(4)
    if form < 2:
        return f"{colour} {_noun(rng)}", lambda i: i.colour == colour
    if form == 2:
        return shape, lambda i: i.shape == shape
    return f"{colour} {shape}", lambda i: i.shape == shape and i.colour == colour


def _where(rng: random.Random) -> tuple[str, Callable[[Item], bool]]:
    """What an item touches, and whether it does."""

    def low(i: Item) -> bool:
        return i.y + i.size >= SIDE

    def left(i: Item) -> bool:
        return i.x <= 0

    def right(i: Item) -> bool:
        return i.x + i.size >= SIDE

    def corner(i: Item) -> bool:
        return (left(i) or right(i)) and (low(i) or i.y <= 0)

    places: list[tuple[tuple[str, ...], Callable[[Item], bool]]] = [
        (("the edge", "the edge", "the wall", "the wall", "the side", "an edge", "any edge"), lambda i: i.touches),
        (("the base", "the bottom", "the bottom of a box", "the bottom edge", "the base of a box"), low),
        (("a corner", "the corner", "a corner of a box"), corner),
        (("the right wall", "right wall of a box"), right),
        (("the left wall", "left wall of a box"), left),
        (("the top", "the top edge"), lambda i: i.y <= 0),
    ]  # fmt: skip
    words, test = rng.choices(places, (8, 4, 3, 0.5, 0.5, 0.7))[0]
    return rng.choice(("touching ", "touching ", "closely touching ")) + rng.choice(words), test


def _items(rng: random.Random) -> Phrase:
    amount, one, fits = amount_of(5, rng, exact=True)
    return f"{amount} {plural(_noun(rng), one)}", lambda box: fits(len(box))


def _items_of(rng: random.Random) -> Phrase:
    name, match = _kind(rng)
    if rng.random() < 0.25:
        return f"a {name}", lambda box: any(map(match, box))
    amount, one, fits = amount_of(3, rng, exact=True)
    return f"{amount} {plural(name, one)}", lambda box: fits(sum(map(match, box)))


def _a_touching(rng: random.Random) -> Phrase:
    name, match = _kind(rng)
    where, test = _where(rng)
    return f"a {name} {where}", lambda box: any(match(i) and test(i) for i in box)


def _two_kinds(rng: random.Random) -> Phrase:
    """ "a black triangle and two blue triangles", which are not the same items"""
    (name, match), (other, fits) = _kind(rng), _kind(rng)
    n = rng.choice((1, 1, 1, 2))

    def holds(box: Box) -> Truth:
        first, second = {i for i in box if match(i)}, {i for i in box if fits(i)}
        if not first or len(second) < n:
            return False
        return None if first & second or len(second) > n > 1 else True

    return f"a {name} and {'a' if n == 1 else number(n, rng)} {plural(other, n == 1)}", holds


def _inks_of_box(rng: random.Random) -> Phrase:
    one, other = rng.sample(list(INKS), 2)
    shape, noun, n = rng.choice(SHAPES), rng.choice(("item", "object")), rng.choice((2, 3))
    phrases: list[Phrase] = [
        (rng.choice((f"only {one} {noun}s", f"{noun}s of only {one} color", f"all {one} {noun}s")),
         lambda box: inks(box) == {one}),
        (rng.choice((f"only {one} and {other} {noun}s", f"{noun}s of only {one} and {other} color")),
         lambda box: inks(box) == {one, other}),
        (f"only {shape}s", lambda box: {i.shape for i in box} == {shape}),
        (f"{noun}s of {rng.choice(('all three', 'all 3', 'all 3 different'))} colors", lambda box: len(inks(box)) == 3),
        (f"{noun}s of only one color", lambda box: len(inks(box)) == 1),
        (f"{noun}s of {number(n, rng)} different colors", lambda box: len(inks(box)) == n),
        (f"{noun}s of {number(n, rng)} different shapes", lambda box: len({i.shape for i in box}) == n),
        (f"at least one {noun} of each color", lambda box: len(inks(box)) == 3),
        (f"the same number of {one} and {other} {noun}s",
         lambda box: None if not inks(box) & {one, other} else _tally(box, one) == _tally(box, other)),
        (f"no {one} {noun}", lambda box: one not in inks(box)),
    ]  # fmt: skip
    return rng.choice(phrases)


def _tally(box: Box, colour: str) -> int:
    return sum(i.colour == colour for i in box)


def _of_which(rng: random.Random) -> Phrase:
    """ "3 items of which 1 is blue" """
    colour, n, m = colour_of(rng), rng.randint(2, 6), rng.randint(1, 3)
    least = rng.random() < 0.3
    amount = f"at least {number(m, rng)}" if least else number(m, rng)
    of_which = f"of which {amount} {'is' if m == 1 else 'are'} {colour}"
    words = f"{number(n, rng)} {rng.choice(('items', 'objects'))} {of_which}"
    return (
        words,
        lambda box: (
            len(box) == n and (_tally(box, colour) >= m if least else _tally(box, colour) == m)
        ),
    )


def _on_top(rng: random.Random) -> Phrase:
    """The highest item, where it is plain which one that is."""
    colour = colour_of(rng)

    def holds(box: Box) -> Truth:
        highest = sorted(box, key=lambda i: i.y)
        if _tally(box, colour) != 1:
            return None if _tally(box, colour) else False
        clear = len(box) == 1 or highest[0].y + highest[0].size / 2 < highest[1].y
        return highest[0].colour == colour if clear else None

    return f"a {colour} {rng.choice(('item', 'object'))} on top", holds


def _box(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    one = rng.choice(
        (_items, _items, _items_of, _items_of, _items_of, _a_touching, _a_touching, _two_kinds, _inks_of_box,
         _inks_of_box, _of_which, _on_top)
    )(rng)  # fmt: skip
    if one[0].startswith(("items of", "objects of")) and rng.random() < 0.6:
        n = rng.randint(2, 5)
        one = joined((number(n, rng), lambda box: len(box) == n), " ", one)
    elif rng.random() < 0.2:
        one = joined(_items(rng), " and ", rng.choice((_a_touching, _items_of))(rng))
    noun = rng.choice(("box", "box", "box", "grey square", "grey box"))
    return some(noun, one, boxes, rng)


def _items_in_all(
    boxes: list[Box], rng: random.Random, touching: bool | None = None
) -> tuple[str, Truth]:
    """So many items of a kind in all boxes together, perhaps at an edge, perhaps not at one."""
    name, match = _kind(rng)
    at, test = ("", lambda _: True) if touching is None else _where(rng)
    if touching is False:
        at = f"not {at}"
    count = sum(match(i) and test(i) != (touching is False) for box in boxes for i in box)
    at = f" {at}" if at else ""
    if rng.random() < 0.3:
        no = rng.random() < 0.3
        return f"there is {'no' if no else 'a'} {name}{at}", (count > 0) != no
    amount, one, fits = amount_of(5 if touching is None else 3, rng, exact=touching is not None)
    return f"there {'is' if one else 'are'} {amount} {plural(name, one)}{at}", fits(count)


def _all_or_none(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    name, match = _kind(rng)
    where, test = _where(rng)
    at = [test(i) for box in boxes for i in box if match(i)]
    if not at:
        return "", None
    if rng.random() < 0.5:
        return f"{rng.choice(('all', 'all the', 'all of the'))} {name}s are {where}", all(at)
    return f"none of the {name}s are {where}", not any(at)


def _all_of_colour(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    shape, colour = rng.choice(SHAPES), colour_of(rng)
    its = [i.colour for box in boxes for i in box if i.shape == shape]
    at = {i.colour for box in boxes for i in box if i.touches}
    forms: list[tuple[str, Truth]] = [
        (f"all {shape}s are {colour}", set(its) == {colour} if its else None),
        (f"there is no {colour} {shape}", colour not in its),
        ("there is only one color touching the wall", len(at) == 1),
        ("items of all 3 colors are touching the wall", len(at) == 3),
    ]
    return rng.choice(forms)


SCATTER_CLAIMS: list[Claim] = [
    _box, _box, _box, _box, _items_in_all, _items_in_all, partial(_items_in_all, touching=True),
    partial(_items_in_all, touching=True), partial(_items_in_all, touching=True),
    partial(_items_in_all, touching=False), _all_or_none, _all_of_colour,
]  # fmt: skip
