"""Drawn pictures show what they are said to show."""

import math
import pickle
from collections import Counter

import numpy as np
import pytest

from vlmamba.data.drawn import Drawing, caption
from vlmamba.data.painting import COLOURS, SCENES, SHAPES, Contents, Thing, paint

EVERYTHING = Drawing(size=96)


def pixels(picture):
    return np.asarray(picture).astype(int)


def share_of(picture, colour, box=(0.0, 0.0, 1.0, 1.0)):
    """The share of a box's pixels that have a colour."""
    image = pixels(picture)
    side = len(image)
    left, top, right, bottom = (round(edge * side) for edge in box)
    part = image[top:bottom, left:right]
    return (np.abs(part - np.array(COLOURS[colour])).max(-1) < 8).mean()


def test_a_picture_is_a_pure_function_of_settings_and_index():
    again = pickle.loads(pickle.dumps(EVERYTHING))
    for index in range(20):
        picture, dialogue = EVERYTHING.draw(index)
        other, same_dialogue = again.draw(index)
        assert picture.tobytes() == other.tobytes()
        assert dialogue == same_dialogue
    seeds = {Drawing(size=96, seed=seed).draw(0)[0].tobytes() for seed in range(5)}
    assert len(seeds) == 5


def test_every_scene_shape_and_colour_comes():
    drawn = [EVERYTHING.contents(index) for index in range(600)]
    assert {contents.scene for contents in drawn} == set(SCENES)
    things = [thing for contents in drawn for thing in contents.things]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.colour for thing in things} == set(COLOURS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_fills_its_place_and_nothing_else(shape):
    thing = Thing(shape, "red", 0.3, 0.7, 0.2)
    picture = paint(Contents("shape", "white", (thing,)), 90)
    assert share_of(picture, "red") > 0.02
    assert share_of(picture, "red", (0.0, 0.0, 1.0, 0.45)) == 0
    assert share_of(picture, "red", (0.55, 0.0, 1.0, 1.0)) == 0
    assert share_of(picture, "red") + share_of(picture, "white") > 0.9


def test_areas_are_those_of_the_shapes():
    def area(shape):
        return share_of(
            paint(Contents("shape", "white", (Thing(shape, "red", 0.5, 0.5, 0.4),)), 300), "red"
        )

    assert area("circle") == pytest.approx(math.pi * 0.16, rel=0.03)
    assert area("triangle") == pytest.approx(3 * math.sqrt(3) / 4 * 0.16, rel=0.03)
    assert area("square") == pytest.approx((1.7 * 0.4) ** 2, rel=0.03)
    assert area("ring") == pytest.approx(math.pi * 0.16 * 0.75, rel=0.03)


@pytest.mark.parametrize("word", ["ice", "WELCOME", "Summer"])
def test_a_word_stays_inside_its_picture(word):
    picture = paint(Contents("word", "white", (), word, "black"), 128)
    image = pixels(picture)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (border == 250).all()
    assert share_of(picture, "black") > 0.01


def answers(scene, **settings):
    """Contents and one question with its answer each, of many pictures of one scene."""
    drawing = Drawing(size=32, scenes=(scene,), **settings)
    for index in range(300):
        contents = drawing.contents(index)
        for question, answer in drawing.dialogue(index):
            yield contents, question, answer


def test_counts_are_counted():
    asked = 0
    for contents, question, answer in answers("count"):
        if not answer.isdigit():
            continue
        asked += 1
        names = [thing.shape for thing in contents.things] + [
            thing.colour for thing in contents.things
        ]
        named = [name for name in set(names) if name in question.lower()]
        expected = names.count(named[0]) if named else len(contents.things)
        assert int(answer) == expected, (question, contents)
    assert asked > 100


def test_places_are_where_the_things_are():
    for contents, question, answer in answers("place"):
        if question.startswith(("Is the ", "Where is the ")) and len(contents.things) == 2:
            one, other = sorted(contents.things, key=lambda thing: question.find(f" {thing.shape}"))
            holds = {
                "left of": one.x < other.x - 0.1,
                "right of": one.x > other.x + 0.1,
                "above": one.y < other.y - 0.1,
                "below": one.y > other.y + 0.1,
            }
            for relation, true in holds.items():
                if f" {relation} " in question:
                    assert answer == ("yes" if true else "no"), (question, contents)
                elif answer.startswith(relation):
                    assert true, (question, answer, contents)
        if (
            "relative" not in question
            and "seen from" not in question
            and question.startswith("Where")
        ):
            thing = next(thing for thing in contents.things if thing.shape in question)
            assert answer == thing.place


def test_yes_and_no_are_even_and_true():
    told = Counter()
    for contents, question, answer in answers("shape"):
        if answer in ("yes", "no"):
            told[answer] += 1
            thing = contents.things[0]
            shapes = [shape for shape in SHAPES if shape in question]
            colours = [colour for colour in COLOURS if f" {colour} " in question]
            holds = all(s == thing.shape for s in shapes) and all(
                c == thing.colour for c in colours
            )
            assert (answer == "yes") == holds, (question, thing)
    assert 0.35 < told["yes"] / told.total() < 0.65


def test_sizes_and_words():
    for contents, question, answer in answers("compare"):
        if "larger" in question or "bigger" in question:
            assert answer == max(contents.things, key=lambda thing: thing.r).shape
    read = [
        (contents, answer) for contents, question, answer in answers("word") if "say?" in question
    ]
    assert read
    assert all(answer == contents.word or answer in ("yes", "no") for contents, answer in read)


def test_captions_say_what_is_there():
    red, blue = Thing("star", "red", 0.2, 0.2, 0.1), Thing("star", "blue", 0.8, 0.2, 0.1)
    ring = Thing("ring", "red", 0.2, 0.8, 0.1)
    crowd = Contents("count", "white", (red, blue, ring))
    assert caption(crowd) == "Two stars and one ring on a white background."
    assert caption(Contents("place", "white", (red, ring))) == "A red star above a red ring."
    assert caption(Contents("place", "white", (blue,))) == "A blue star, top right."
    assert caption(Contents("shape", "black", (Thing("cross", "orange", 0.5, 0.5, 0.3),))) == (
        "An orange cross on a black background."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shapes": ("blob",)}, "shapes must be some of .*'blob'"),
        ({"scenes": ()}, "scenes must be some of"),
        ({"max_count": 9}, "max_count must be 1 to 6"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Drawing(**settings)
