"""Scenes to learn from: what is said of them, and of their patches, is true of the picture."""

import io
import json
import random
import re
from importlib.resources import files

import numpy as np
import pytest
from pack_files import write_pack
from PIL import Image, ImageDraw, ImageFont

from vlmamba.data import emoji as emoji_module
from vlmamba.data import mixed_scenes
from vlmamba.data.clipart import clipart
from vlmamba.data.cutout_looks import MASKS, Look, drawn_look, pasted
from vlmamba.data.cutouts import Cutout, encoding, kind_of, photographed, silhouette, stamped
from vlmamba.data.emoji import EMOJI, emoji
from vlmamba.data.mixed_scenes import MixedScenes
from vlmamba.data.packs import open_pack
from vlmamba.data.patch_classes import COVERED, NO_THING
from vlmamba.data.scene_dialogues import NUMBERS, OPPOSITE
from vlmamba.data.scenes import KIND_NAMES, stamps
from vlmamba.data.words import FONT_DIRECTORIES

INKS = {"animal": (250, 0, 0), "fruit": (0, 250, 0), "vehicle": (0, 0, 250)}


def plain(kind, look="stamp", size=(24, 24)):
    """A picture of one colour, which stands for a kind."""
    picture = Image.new("RGB" if look == "tile" else "RGBA", size, INKS[kind])
    return Cutout("", kind, encoding(picture), look)


@pytest.fixture
def scenes():
    """A drawing and a photograph of each kind."""
    cutouts = tuple(plain(kind, look) for kind in INKS for look in ("stamp", "tile"))
    return MixedScenes(cutouts, (), 128)


def shown_in(placed, kind):
    return [(x, y) for thing, x, y, _ in placed if thing.kind == kind]


def test_counts_and_places_are_those_of_the_picture(scenes, monkeypatch):
    pasted_things = []
    paste = MixedScenes._paste
    monkeypatch.setattr(
        MixedScenes,
        "_paste",
        lambda self, placed, *rest, **named: pasted_things.append(placed) or paste(self, placed, *rest, **named),
    )  # fmt: skip
    counted, placed_counts = set(), 0
    for index in range(150):
        _, told = scenes.draw(index)
        placed = pasted_things[-1]
        for question, answer in told:
            kinds = [kind for kind in INKS if re.search(rf"\b{kind}s?\b", question)]
            if answer.isdigit():
                of_kind = shown_in(placed, kinds[0]) if kinds else placed
                assert answer == str(len(of_kind)), question
                counted.add((bool(kinds), answer))
            elif answer in ("left", "right", "above", "below"):
                one, other = sorted(kinds, key=question.index)
                (x, y), (u, v) = shown_in(placed, one)[0], shown_in(placed, other)[0]
                dx, dy = x - u, y - v
                assert {"left": -dx, "right": dx, "above": -dy, "below": dy}[answer] > 0.3
                assert min(abs(dx), abs(dy)) < 0.6 * max(abs(dx), abs(dy))
                placed_counts += 1
            elif answer in ("yes", "no") and len(kinds) == 1:
                number = next(
                    n for n, word in enumerate(NUMBERS) if f"{word} {kinds[0]}" in question
                )
                assert (number == len(shown_in(placed, kinds[0]))) == (answer == "yes")
            elif answer in ("yes", "no"):
                one, other = sorted(kinds, key=question.index)
                (x, y), (u, v) = shown_in(placed, one)[0], shown_in(placed, other)[0]
                asked = next(relation for relation in OPPOSITE if relation in question)
                holds = {"left of": x < u, "right of": x > u, "above": y < v, "below": y > v}
                assert holds[asked] == (answer == "yes")
    assert {answer for kinds, answer in counted if kinds} == set("123456")
    assert max(int(answer) for _, answer in counted) > 6  # with the others
    assert placed_counts > 20


def test_patches_tell_the_kind_that_the_picture_shows(scenes, monkeypatch):
    monkeypatch.setattr(
        mixed_scenes, "drawn_look", lambda rng: Look(rng.gauss(0, 10), 0.0, 1.0, None, rng.choice(MASKS), None)
    )  # fmt: skip
    ground = Image.new("RGB", (128, 128), (128, 128, 128))
    monkeypatch.setattr(MixedScenes, "_ground", lambda self, rng: ground.copy())
    seen = set()
    for index in range(60):
        scene, _ = scenes.draw(index)
        cells = np.asarray(scene.picture).astype(int).reshape(8, 16, 8, 16, 3)
        covered = {
            kind: ((cells[..., channel] > 190) & (cells.sum(-1) < 320)).mean((1, 3))
            for channel, kind in enumerate(INKS)
        }
        told = scene.patches - NO_THING
        for row, column in np.ndindex(8, 8):
            class_of = told[row, column]
            shares = {kind: covered[kind][row, column] for kind in INKS}
            if class_of == 0:
                assert sum(shares.values()) < COVERED + 0.05
            elif max(shares.values()) > COVERED + 0.1:
                most = max(shares, key=lambda kind: shares[kind])
                alone = sorted(shares.values())[-2] == 0
                kind = KIND_NAMES[(class_of - 1) // 2]
                assert kind == most or not alone
                seen.add((kind, class_of % 2))
    assert seen == {(kind, odd) for kind in INKS for odd in (0, 1)}


def test_a_scene_is_the_same_every_time(scenes):
    for index in range(12):
        scene, told = scenes.draw(index)
        again, told_again = MixedScenes(scenes.cutouts, (), 128).draw(index)
        assert scene.picture.tobytes() == again.picture.tobytes()
        assert (scene.patches == again.patches).all()
        assert told == told_again


def test_things_placed_anywhere_do_not_cover_each_other():
    for seed in range(40):
        rng = random.Random(seed)
        placed = mixed_scenes._anywhere([plain("fruit")] * rng.randint(1, 9), rng)
        for k, (_, x, y, side) in enumerate(placed):
            assert side / 2 < min(x, y, 1 - x, 1 - y) + 1e-6
            for _, u, v, other in placed[:k]:
                assert max(abs(x - u), abs(y - v)) > (side + other) / 2


def test_a_look_changes_form_and_colours_but_not_the_place():
    thing = plain("fruit", size=(40, 20))
    sizes, colours = set(), set()
    for seed in range(30):
        small = pasted(thing, 30, drawn_look(random.Random(seed)), seed % 2 == 0)
        alpha = np.asarray(small.getchannel("A")).astype(float)
        rows, columns = np.indices(alpha.shape)
        middle = (rows * alpha).sum() / alpha.sum(), (columns * alpha).sum() / alpha.sum()
        assert np.abs(np.subtract(middle, np.subtract(alpha.shape, 1) / 2)).max() < 1
        assert 0.6 < (alpha > 128).sum() / (30 * 15) < 1.5
        sizes.add(small.size)
        colours.add(np.asarray(small)[small.height // 2, small.width // 2].tobytes())
    assert len(sizes) > 10
    assert len(colours) > 10


def round_thing(ground):
    picture = Image.new("RGB", (64, 64), ground)
    ImageDraw.Draw(picture).ellipse((12, 20, 51, 43), fill=(200, 40, 40))
    return picture


def test_a_thing_on_plain_ground_is_cut_out():
    alone = silhouette(round_thing((240, 240, 240)))
    assert alone is not None
    assert np.abs(np.subtract(alone.size, (40, 24))).max() <= 2
    alpha = np.asarray(alone.getchannel("A"))
    assert alpha[12, 20] == 255
    assert alpha[0, 0] == 0
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert silhouette(Image.fromarray(noise)) is None
    assert silhouette(Image.new("RGB", (64, 64), (9, 9, 9))) is None


def test_photographs_have_the_kind_of_their_class_and_are_taken_by_their_boxes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = [
        Image.fromarray(noise),
        round_thing((240, 240, 240)),
        Image.fromarray(noise),
        Image.fromarray(noise),
    ]
    names = ["lemon, yellow", "tabby, tabby cat", "cliff, drop", "sports car, racer"]
    boxes = np.array([[8, 16, 40, 64]] + [[0, 0, 64, 64]] * 3, np.uint8)
    write_pack(tmp_path / "tiny64_train_a.npz", pictures, y=np.arange(4), box=boxes, meta={"names": names})  # fmt: skip
    found = photographed({"tiny64": [open_pack(tmp_path / "tiny64_train_a.npz")]})
    assert [(c.name, c.kind, c.look, c.box) for c in found] == [
        ("lemon", "fruit", "tile", (8, 16, 40, 64)),
        ("tabby", "animal", "photo", None),
        ("sports car", "vehicle", "tile", (0, 0, 64, 64)),
    ]
    whole = Look(0.0, 0.0, 1.0, None, "rectangle", None)
    there = np.asarray(pasted(found[0], 48, whole, False))[..., :3].astype(int)
    assert np.abs(there - noise[16:64, 8:40].astype(int)).max() < 3
    assert [kind_of(name) for name in ("dog", "automobile", "dress", "cliff", "coral reef")] == [
        "animal", "vehicle", "", None, None,
    ]  # fmt: skip


def test_stamps_held_out_are_in_no_scene_to_learn_from(tmp_path):
    paths = [f"animals/cow{k}.png" for k in range(15)]
    paths += ["animals/two.png", "animals/tux.png", "hats/a.png", "odd/b.png"]
    captions = ["A cow."] * 15 + [
        "Two cows.",
        "The mascot of them all!",
        "A party hat.",
        "A thing.",
    ]
    pictures = [Image.new("RGBA", (20, 10), (9 * k, 0, 0, 255)) for k in range(len(paths))]
    meta = {"path": paths, "captions": captions}
    write_pack(tmp_path / "tux.npz", pictures, i=np.arange(len(paths)), meta=meta)
    pack = open_pack(tmp_path / "tux.npz")
    found = stamped(pack)
    cows = [("cow", "animal")] * 13
    assert [(c.name, c.kind) for c in found] == [*cows, ("party hat", ""), ("", "animal")]
    assert not {c.encoded for c in found} & {s.encoded for s in stamps(pack)[1]}


def test_emoji_have_one_kind_and_are_done_without_where_their_font_is_absent(tmp_path, monkeypatch):
    characters = "".join(EMOJI.values())
    assert len(set(characters)) == len(characters)
    assert set(EMOJI) <= set(KIND_NAMES)
    assert emoji([tmp_path]) == []
    # A font of that name that does not know them.
    font = ImageFont.load_default(60)
    monkeypatch.setattr(emoji_module.ImageFont, "truetype", lambda *_: font)
    drawn = emoji_module._drawn(tmp_path, [("animal", one) for one in EMOJI["animal"]])
    assert drawn == []


def test_emoji_are_drawn_in_colours():
    found = emoji(FONT_DIRECTORIES)
    if not found:
        pytest.skip("Noto Color Emoji is not installed")
    assert len(found) > 250
    assert {c.kind for c in found} == set(EMOJI)
    assert next(c for c in found if c.name == "tiger").kind == "animal"


def test_clip_art_is_taken_where_it_is_installed(tmp_path):
    listed = json.loads((files("vlmamba.data") / "clipart.json").read_text())
    names = [name for of_kind in listed.values() for name in of_kind]
    assert set(listed) == set(KIND_NAMES) - {""}
    assert len(names) == len(set(names)) > 400
    assert not {"food/fruit/strawberry.png", "food/fruit/lemon1.png"} & set(names)  # held out
    assert clipart([tmp_path / "absent"]) == []
    for kind in ("tool", "animal"):
        path = tmp_path / listed[kind][0]
        path.parent.mkdir(parents=True)
        picture = Image.new("RGBA", (300, 300))
        picture.paste((200, 0, 0, 255), (100, 150, 200, 200))
        picture.save(path)
    found = clipart([tmp_path / "absent", tmp_path])
    assert sorted(c.kind for c in found) == ["animal", "tool"]
    assert Image.open(io.BytesIO(found[0].encoded)).size == (96, 48)
