"""Composed scenes and labelled photographs: what is said of them is true."""

import numpy as np
import pytest
from pack_files import write_pack
from PIL import Image

from vlmamba.data.near_duplicates import without_near_duplicates
from vlmamba.data.packs import Pack, open_pack
from vlmamba.data.photos import colour_of, place_of
from vlmamba.data.scene_dialogues import plural
from vlmamba.data.scenes import HELD_OUT, Scene, Scenes, Stamp, stamps


@pytest.fixture
def pack(tmp_path):
    paths, captions = [], []
    for folder, name in (("animals/mammals", "cow"), ("food/fruit", "pear")):
        for k in range(HELD_OUT + 1):
            paths.append(f"{folder}/{name}{k}.png")
            captions.append(f"A {name}.")
    paths += ["symbols/alphabets/a.png", "animals/x.png"]
    captions += ["The letter.", "It sings and dances all day long."]
    pictures = [Image.new("RGBA", (20, 10), (9 * k, 0, 0, 255)) for k in range(len(paths))]
    meta = {"path": paths, "captions": captions}
    write_pack(tmp_path / "tux.npz", pictures, i=np.arange(len(paths)), meta=meta)
    return open_pack(tmp_path / "tux.npz")


def test_some_stamps_are_held_out_and_captions_that_name_nothing_left_out(pack):
    learnt, held = stamps(pack)
    assert len(learnt) == 2 * HELD_OUT
    assert [(s.name, s.kind) for s in held] == [("cow", "animal"), ("pear", "fruit")]
    assert not {s.encoded for s in learnt} & {s.encoded for s in held}


def red_and_blue(pack, grounds=()):
    """Scenes of red animals and blue fruits."""
    red, blue = (
        Stamp(name, kind, pack.encoded(k))
        for name, kind, k in (("cow", "animal", 2), ("pear", "fruit", 3))
    )
    return Scenes((red, blue), grounds, 60, seed=1)


def test_relations_and_counts_are_those_of_the_picture(pack, monkeypatch):
    pasted = []
    monkeypatch.setattr(
        Scenes,
        "_paste",
        lambda self, placed, rng: (
            pasted.append(placed) or Scene(Image.new("RGB", (4, 4)), np.zeros((8, 8)))
        ),
    )
    scenes = red_and_blue(pack)
    for index in range(40):
        _, question, answer = scenes.exam(index, "relation")
        (one, (x, y, _)), (_, (u, v, _)) = pasted[-1]
        assert question.index(one.kind) < question.index(" or ")
        true = {"left": x < u, "right": x > u, "above": y < v, "below": y > v}
        assert true[answer]
        assert abs(x - u) + abs(y - v) > 0.3
        _, question, answer = scenes.exam(index, "count")
        asked = "animal" if "animals" in question else "fruit"
        assert answer == str(sum(stamp.kind == asked for stamp, _ in pasted[-1]))


def test_the_scenes_that_are_asked_about_are_the_same_as_ever(pack, tmp_path):
    """Figures of one version of the package and of the next are of the same pictures."""
    ground = tmp_path / "ground.npz"
    write_pack(ground, [Image.new("RGB", (16, 16), (0, 200, 90))], meta={})
    scenes = red_and_blue(pack, (open_pack(ground).encoded(0),))
    asked = [
        (question, answer, int(np.asarray(picture).astype(int).sum()))
        for form in ("count", "relation")
        for picture, question, answer in (scenes.exam(index, form) for index in range(3))
    ]
    assert asked == [
        ("How many fruits are there?", "6", 669135),
        ("How many animals are there?", "5", 871008),
        ("How many fruits are there?", "6", 1438428),
        ("Is the animal left of or right of the fruit?", "left", 891311),
        ("Is the fruit above or below the animal?", "below", 1575300),
        ("Is the fruit left of or right of the animal?", "right", 928568),
    ]


def test_plurals():
    assert [plural(n) for n in ("cow", "cherry", "box", "snowman", "toy", "church")] == [
        "cows", "cherries", "boxes", "snowmen", "toys", "churches",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 0, 0.3, 0.3), "top left"),
        ((0.7, 0.3, 1.0, 0.7), "right"),
        ((0.3, 0.3, 0.7, 0.7), "in the middle"),
        ((0.0, 0.0, 1.0, 0.9), None),
        ((0.2, 0.4, 0.57, 0.6), None),
    ],
)
def test_places(box, place):
    assert place_of(*box) == place


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 20, 20), "red"), ((30, 60, 180), "blue"), ((250, 250, 250), "white"), ((20, 20, 22), "black"),
        ((110, 70, 35), "brown"), ((128, 128, 128), "gray"), ((40, 140, 60), "green"),
    ],
)  # fmt: skip
def test_colours(rgb, name):
    assert colour_of(np.full((32, 32, 3), rgb, np.uint8)) == name


def test_a_middle_of_many_colours_has_none():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert colour_of(noise) is None


def test_near_duplicates_are_left_out_of_the_pack_that_they_are_listed_for():
    offsets = np.arange(986)
    pack = Pack("nlvr_hidden", bytes(985), offsets, {"i": np.arange(985)}, {})
    kept = without_near_duplicates(pack)
    assert len(kept) == 969
    assert 135 not in kept.arrays["i"]
    other = Pack("nlvr_hidden", bytes(7), np.arange(8), {"i": np.arange(7)}, {})
    assert without_near_duplicates(other) is other
