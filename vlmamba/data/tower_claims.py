"""Statements about three towers of blocks; a tower is a box whose items stand on each other, lowest first."""

import random
from itertools import pairwise

from vlmamba.data.box_claims import (
    NUMBER,
    OVER,
    UNDER,
    Claim,
    Phrase,
    Truth,
    amount_of,
    both,
    colour_of,
    inks,
    joined,
    number,
    plural,
    some,
    there,
)
from vlmamba.data.boxes import INKS, Box


def _height(rng: random.Random) -> Phrase:
    amount, one, fits = amount_of(4, rng, exact=True)
    return f"{amount} {plural('block', one)}", lambda box: fits(len(box))


def _end(rng: random.Random) -> Phrase:
    colour, top = colour_of(rng), rng.random() < 0.5
    end = "top" if top else rng.choice(("base", "base", "bottom"))
    a = rng.choice(("a ", "a ", "a ", "1 ", ""))
    words = rng.choice(
        (f"{a}{colour} block at the {end}", f"{a}{colour} block at the {end}", f"a {colour} {end}",
         f"a {colour} color block at the {end}", f"a {colour} block at {end}")
    )  # fmt: skip
    return words, lambda box: box[-1 if top else 0].colour == colour


def _both_ends(rng: random.Random) -> Phrase:
    low, high = colour_of(rng), colour_of(rng)
    if low == high:
        words = rng.choice(
            (f"a {low} block at the top and at the base", f"{low} block at the base and at the top")
        )
    else:
        words = rng.choice(
            (f"{low} as a base and {high} as a top block", f"a {low} base and a {high} top")
        )
    return (
        words,
        lambda box: (
            (box[0].colour, box[-1].colour) == (low, high)
            if len(box) > 1
            else (None if low == high == box[0].colour else False)
        ),
    )


def _order(rng: random.Random) -> Phrase:
    low, high = colour_of(rng), colour_of(rng)
    words = (
        f"a {high} block {rng.choice(OVER)} a {low} block"
        if rng.random() < 0.7
        else f"a {low} block {rng.choice(UNDER)} a {high} block"
    )
    return words, lambda box: (low, high) in _neighbours(box)


def _neighbours(box: Box) -> list[tuple[str, str]]:
    return [(a.colour, b.colour) for a, b in pairwise(box)]


def _colours(rng: random.Random) -> Phrase:
    """The colours of all of a tower's blocks."""
    one, other = rng.sample(list(INKS), 2)
    phrases: list[Phrase] = [
        (rng.choice((f"only {one} blocks", f"blocks of {one} color only", f"only {one} color blocks")),
         lambda box: inks(box) == {one}),
        (rng.choice((f"only {one} and {other} blocks", f"blocks of only {one} and {other} color")),
         lambda box: inks(box) == {one, other}),
        (f"{one} and {other} blocks", lambda box: None if len(inks(box)) == 3 else inks(box) == {one, other}),
        (rng.choice(("blocks of all three colors", "all the three colors", "blocks of all 3 colors")),
         lambda box: len(inks(box)) == 3),
        (rng.choice(("blocks of the same color", "all the blocks of the same color", "only one color")),
         lambda box: None if len(box) == 1 else len(inks(box)) == 1),
        (rng.choice(("blocks of two different colors", "blocks of 2 colors")), lambda box: len(inks(box)) == 2),
    ]  # fmt: skip
    return rng.choice(phrases)


def _blocks_of(rng: random.Random) -> Phrase:
    colour = colour_of(rng)
    amount, one, fits = amount_of(3, rng)
    return f"{amount} {colour} {plural('block', one)}", lambda box: fits(
        sum(i.colour == colour for i in box)
    )


def _stacked(rng: random.Random) -> Phrase:
    colour, n = colour_of(rng), rng.choice((2, 2, 2, 3))
    together = rng.choice(("stacked together", "attached with each other", "on top of each other"))

    def holds(box: Box) -> Truth:
        run = longest = 0
        for item in box:
            run = run + 1 if item.colour == colour else 0
            longest = max(longest, run)
        return None if longest > n else longest == n

    return f"{number(n, rng)} {colour} blocks {together}", holds


def _middle(rng: random.Random) -> Phrase:
    colour = colour_of(rng)
    words = f"a {colour} block in the middle"

    def holds(box: Box) -> Truth:
        if len(box) == 4:
            return None if colour in (box[1].colour, box[2].colour) else False
        return len(box) == 3 and box[1].colour == colour

    return words, holds


def _between(rng: random.Random) -> Phrase:
    inner, outer = rng.sample(list(INKS), 2)
    triple = outer, inner, outer
    return f"a {inner} block between two {outer} blocks", lambda box: any(
        tuple(i.colour for i in box[k : k + 3]) == triple for k in range(len(box))
    )


_PARTS = (_end, _end, _blocks_of, _order, _colours, _stacked)


def _tower(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    one = rng.choice(
        (_height, _height, _end, _end, _end, _both_ends, _order, _order, _colours, _colours, _blocks_of, _blocks_of,
         _stacked, _middle, _between)
    )  # fmt: skip
    return some("tower", one(rng), boxes, rng)


def _high_tower(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """Height and something else of one tower."""
    if rng.random() < 0.15:
        colour = colour_of(rng)
        one: Phrase = colour, lambda box: colour in inks(box)
        return some("tower", joined(_height(rng), " where one of the block is ", one), boxes, rng)
    between = rng.choice((" having ", " with ", " and ", " that has ", " which has "))
    return some("tower", joined(_height(rng), between, rng.choice(_PARTS)(rng)), boxes, rng)


def _as_end(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """ "There is a blue block as the top of a tower with two blocks." """
    colour, top = colour_of(rng), rng.random() < 0.5
    end = "top" if top else rng.choice(("base", "base", "bottom"))
    more = rng.choice((_height, _height, _blocks_of))(rng) if rng.random() < 0.6 else None
    hits: list[Truth] = [box[-1 if top else 0].colour == colour for box in boxes]
    if more is not None:
        hits = [both(hit, more[1](box)) for hit, box in zip(hits, boxes, strict=True)]
    as_end = f"as the {end} of a tower" + ("" if more is None else f" with {more[0]}")
    return there(f"{colour} block {as_end}", f"{colour} blocks {as_end}", hits, rng)


def _blocks(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """Blocks of all towers together."""
    colour, (order, ordered) = colour_of(rng), _order(rng)
    if rng.random() < 0.5:
        there = any(ordered(box) for box in boxes)
        no = rng.random() < 0.2
        return f"there is {'no' + order[1:] if no else order}", there != no
    amount, one, fits = amount_of(6, rng)
    count = sum(i.colour == colour for box in boxes for i in box)
    verb = "is" if one else "are"
    return f"there {verb} {amount} {colour} {plural('block', one)}", fits(count)


def _coloured_tower(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """ "There is a blue tower with only one block." """
    colour = colour_of(rng)
    height, high = _height(rng) if rng.random() < 0.6 else ("", lambda _: True)
    more = f" with {height}" if height else ""
    hits = [both(inks(box) == {colour}, high(box)) for box in boxes]
    return there(f"{colour} tower{more}", f"{colour} towers{more}", hits, rng)


def _the_tower(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    """Of the one tower with so many blocks."""
    n = rng.randint(1, 4)
    such = [box for box in boxes if len(box) == n]
    has, test = rng.choice((_end, _order, _blocks_of, _below_top))(rng)
    words = f"the tower with {rng.choice(('', 'exactly '))}{NUMBER[n]} {plural('block', n == 1)}"
    return f"{words} has {has}", test(such[0]) if len(such) == 1 else None


def _below_top(rng: random.Random) -> Phrase:
    colour = colour_of(rng)
    return (
        f"a {colour} block below the top block",
        lambda box: len(box) > 1 and box[-2].colour == colour,
    )


def _ends_alike(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    top = rng.random() < 0.5
    ends = [box[-1 if top else 0].colour for box in boxes]
    end, colour = "top" if top else "base", colour_of(rng)
    forms: list[tuple[str, Truth]] = [
        (f"all the {end}s of the towers are the same in color", len(set(ends)) == 1),
        (f"the {end} of the three towers are the same in color", len(set(ends)) == 1),
        (f"the {end} of the three towers are not the same in color", len(set(ends)) > 1),
        (f"all towers have a different {end} color", len(set(ends)) == 3),
        (f"the {end} of a tower is {colour}", colour in ends),
        (f"all the towers have a {colour} {end}", set(ends) == {colour}),
    ]
    return rng.choice(forms)


def _heights_alike(boxes: list[Box], rng: random.Random) -> tuple[str, Truth]:
    different = len({len(box) for box in boxes})
    forms: list[tuple[str, Truth]] = [
        ("there are two towers with the same height", None if different == 1 else different == 2),
        ("there are two towers with the same number of blocks", None if different == 1 else different == 2),
        ("all the towers have the same height", different == 1),
        ("all three towers have different heights", different == 3),
    ]  # fmt: skip
    return rng.choice(forms)


TOWER_CLAIMS: list[Claim] = [
    _tower, _tower, _tower, _tower, _tower, _high_tower, _high_tower, _as_end, _as_end, _as_end, _blocks, _blocks,
    _coloured_tower, _the_tower, _ends_alike, _heights_alike,
]  # fmt: skip
