"""Statements about three boxes: true where the boxes are so, and not to be guessed from their words."""

import random
import re

from vlmamba.data.box_claims import NUMBER
from vlmamba.data.box_pictures import BoxPictures, balanced
from vlmamba.data.boxes import INKS, Item, scatter, tower
from vlmamba.data.scatter_claims import SCATTER_CLAIMS
from vlmamba.data.tower_claims import TOWER_CLAIMS


def block(colour, k=0):
    return Item("square", colour, 40, 80 - 21 * k, 20)


def stack(*colours):
    return [block(colour, k) for k, colour in enumerate(colours)]


def said(claims, boxes, tries=60000):
    """Everything that is said of the boxes, and whether it holds."""
    found = {}
    for seed in range(tries):
        rng = random.Random(seed)
        words, holds = rng.choice(claims)(boxes, rng)
        words = re.sub(r"\d", lambda digit: NUMBER[int(digit[0])], words).replace("closely ", "")
        assert found.setdefault(words, holds) is holds, words
    return found


def test_claims_about_towers():
    found = said(TOWER_CLAIMS, [stack("black", "blue"), stack("blue"), stack("blue", "blue")])
    for words in (
        "there is a blue tower",
        "there are two blue towers",
        "there is no yellow block as the top of a tower",
        "there are three towers with a blue block at the top",
        "there is exactly one tower with a black base and a blue top",
        "there is a black block as the base of a tower with exactly two blocks",
        "there is a blue block on a black block",
        "there are exactly four blue blocks",
        "there is a tower with only one block",
        "there is a tower with two blocks",
        "the tower with one block has a blue top",
        "all the tops of the towers are the same in color",
        "there is a tower with two blue blocks stacked together",
        "there are two towers with the same height",
    ):
        assert found[words] is True, words
    for words in (
        "there is a yellow tower",
        "there are three blue towers",
        "there is exactly one blue tower",
        "there are three towers with a blue block at the base",
        "there is a black block above a blue block",
        "there are at least five blue blocks",
        "there is a tower with four blocks",
        "there is no tower with two blocks",
        "all the towers have the same height",
        "there are two towers with a black base",
    ):
        assert found[words] is False, words
    assert found["there are three blue blocks"] is None  # there are four


def test_claims_about_scattered_shapes():
    boxes = [
        [Item("circle", "yellow", 0, 30, 20)],
        [Item("square", "blue", 40, 70, 30), Item("square", "blue", 5, 5, 10)],
        [Item("triangle", "blue", 90, 90, 10)],
    ]
    found = said(SCATTER_CLAIMS, boxes, 100000)
    for words in (
        "there is a circle touching the edge",
        "there is exactly one circle",
        "there is no black item",
        "there are exactly two squares",
        "there is a square touching the base",
        "there is a triangle touching the corner",
        "there is a box with two items",
        "there are two boxes with a blue item",
        "there is a box with two squares",
        "all circles are yellow",
        "none of the circles are touching the base",
        "there is a square not touching the edge",
        "there is a box with items of only one color",
        "there is at least one blue item touching the edge",
    ):
        assert found[words] is True, words
    for words in (
        "there is a circle touching the base",
        "there is no circle",
        "there is a square touching a corner",
        "there is exactly one box with a blue item",
        "there is a box with three items",
        "all squares are touching the edge",
        "there are exactly two circles",
        "there is a circle not touching the edge",
        "there is only one color touching the wall",
        "there is no triangle",
    ):
        assert found[words] is False, words
    assert found["there is one square"] is None  # there are two


FORMS = (
    (r"there (?:is|are) exactly (\w+) (\w+) blocks?", lambda m, boxes: NUMBER.index(m[1]) == sum(
        i.colour == m[2] for box in boxes for i in box)),
    (r"there is a tower with a (\w+) block at the (top|base)", lambda m, boxes: any(
        box[-1 if m[2] == "top" else 0].colour == m[1] for box in boxes)),
    (r"there is a (\w+) block (?:above|over|on|on top of) a (\w+) block", lambda m, boxes: any(
        f"{m[2]} {m[1]}" in " ".join(i.colour for i in box) for box in boxes)),
    (r"there are two towers with exactly (\w+) blocks?", lambda m, boxes: sum(
        len(box) == NUMBER.index(m[1]) for box in boxes) == 2),
    (r"there is a (\w+) (circle|square|triangle) touching the (?:edge|wall)", lambda m, boxes: any(
        i.colour == m[1] and i.shape == m[2] and (min(i.x, i.y) == 0 or max(i.x, i.y) + i.size == 100)
        for box in boxes for i in box)),
    (r"there is a box with exactly (\w+) items?", lambda m, boxes: any(
        len(box) == NUMBER.index(m[1]) for box in boxes)),
)  # fmt: skip


def test_statements_of_common_forms_hold_when_they_say_so():
    """Read back from their words alone."""
    seen = {pattern: set() for pattern, _ in FORMS}
    for claims, make in ((TOWER_CLAIMS, tower), (SCATTER_CLAIMS, scatter)):
        boxes = []
        for seed in range(60000):
            rng = random.Random(seed)
            if seed % 20 == 0:
                boxes = [make(rng) for _ in range(3)]
            words, holds = rng.choice(claims)(boxes, rng)
            words = re.sub(r"\d", lambda digit: NUMBER[int(digit[0])], words)
            for pattern, truth in FORMS:
                found = re.fullmatch(pattern, words)
                if found:
                    assert holds is truth(found, boxes), (words, boxes)
                    seen[pattern].add(holds)
    assert all(held == {True, False} for held in seen.values()), seen


def test_words_do_not_give_the_answer_away():
    rng = random.Random(0)
    answers = {}
    pool = [[tower(rng) for _ in range(3)] for _ in range(12)]
    for _ in range(1500):
        words, holds = balanced([tower(rng) for _ in range(3)], TOWER_CLAIMS, pool, rng)
        for mark in ("there is no", "at least", "exactly", ""):
            if mark in words.lower():
                answers.setdefault(mark, []).append(holds)
    for mark, held in answers.items():
        assert len(held) > 30
        assert 0.3 < sum(held) / len(held) < 0.7, mark


def test_a_picture_is_the_same_every_time():
    drawings = BoxPictures(32)
    answers = []
    for k in range(60):
        boxes, told = drawings.told(k)
        assert (boxes, told) == BoxPictures(32).told(k)
        assert drawings.draw(k)[1] == told
        assert all({i.colour for i in box} <= set(INKS) for box in boxes)
        answers += [answer in ("yes", "true") for _, answer in told]
    assert 0.36 < sum(answers) / len(answers) < 0.6
