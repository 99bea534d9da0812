"""What is counted in the patches of three boxes: against the boxes' pixels, one shape at a time."""

import random

import numpy as np
import pytest
import torch

from vlmamba.data.box_pictures import BoxPictures
from vlmamba.data.box_sources import boxes_source
from vlmamba.data.boxes import GROUND, INKS, SHAPES, Item, picture
from vlmamba.data.census import ALL, CELLS, COLOURS, FORMS, MIDDLES, OUTSIDE, TOUCHING, census, kind
from vlmamba.data.mixture import Mixture
from vlmamba.processing import ImageSettings, Processor
from vlmamba.train.tokenizer import train_tokenizer


def boxes_of(index):
    return BoxPictures(128).told(index)[0]


@pytest.mark.parametrize("index", range(8))
def test_middles_and_touching_shapes_are_counted_where_they_are(index):
    boxes = boxes_of(index)
    found = census(boxes, 8)
    shown = np.zeros((2, 8, 8, 9), int)
    for number, box in enumerate(boxes):
        for item in box:
            x, y = 150 * number + item.x + item.size / 2, 150 + item.y + item.size / 2
            at = (
                int(y * 0.32) // 16,
                int(x * 0.32) // 16,
            )  # 400 units are 128 pixels, 16 of them a patch
            shown[0][at][kind(item)] += 1
            shown[1][at][kind(item)] += item.touches
    inside = found[..., ALL] != OUTSIDE
    assert inside.sum() == 12
    assert (found[~inside] == OUTSIDE).all()
    assert (shown[:, ~inside] == 0).all()
    assert (found[inside][:, MIDDLES:TOUCHING] == shown[0][inside]).all()
    assert (found[inside][:, TOUCHING:COLOURS] == shown[1][inside]).all()


@pytest.mark.parametrize("index", range(8))
def test_the_four_patches_of_a_box_know_the_whole_box(index):
    boxes = boxes_of(index)
    found = census(boxes, 8)
    for number, box in enumerate(boxes):
        its = found[3:5, 3 * number : 3 * number + 2].reshape(4, -1)
        assert (its == its[0])[:, COLOURS:].all()
        assert its[0, COLOURS:FORMS].tolist() == [sum(i.colour == c for i in box) for c in INKS]
        assert its[0, FORMS:ALL].tolist() == [sum(i.shape == s for i in box) for s in SHAPES]
        assert its[0, ALL] == len(box)


def test_cells_have_the_colour_of_the_picture():
    """A cell of 12.5 units is 4 pixels; where squares cover all or nothing of it, its middle shows which."""
    inks = [GROUND, *INKS.values()]
    seen = set()
    for seed in range(30):
        rng = random.Random(seed)
        boxes = [
            [Item("square", rng.choice(list(INKS)), rng.choice((0, 25, 50)), y, 25) for y in (0, 25, 75)]
            for _ in range(3)
        ]  # fmt: skip
        found = census(boxes, 8)[..., : CELLS * CELLS].reshape(8, 8, CELLS, CELLS)
        pixels = np.asarray(picture(boxes, 128)).astype(int)
        for row, column in np.argwhere(found[..., 0, 0] != OUTSIDE):
            for i in range(CELLS):
                for j in range(CELLS):
                    middle = pixels[row * 16 + i * 4 + 2, column * 16 + j * 4 + 2]
                    told = found[row, column, i, j]
                    expected = inks[0 if told == 0 else 1 + (told - 1) // len(SHAPES)]
                    assert np.abs(middle - expected).max() < 20
                    seen.add(int(told))
    assert seen == {0, *(1 + len(SHAPES) * k for k in range(3))}


def test_no_shape_is_too_small_to_be_shown_in_a_cell():
    for x in range(91):
        found = census([[Item("circle", "blue", x, 93 - x, 10)], [], []], 8)[..., : CELLS * CELLS]
        assert 1 <= (found == 1 + kind(Item("circle", "blue", 0, 0, 10))).sum() <= 4


def test_a_census_goes_along_with_its_picture():
    source = boxes_source(BoxPictures(16), 12, 1.0)
    texts = [text for dialogue in source.dialogues for turn in dialogue for text in turn]
    settings = ImageSettings(16, (0.5,) * 3, (0.5,) * 3)
    told = Processor(train_tokenizer(texts, 400), settings, 64, image_token_id=2)
    mixture = Mixture([source], told, 12, 16, seed=1)
    batch = mixture.batch(0)
    expected = torch.from_numpy(source.census).flatten(1, 2)
    assert batch.census.shape == (12, 64, expected.shape[2])
    order = mixture.sources[0].picture[mixture.sources[0].order.rows(0, 12)]
    assert torch.equal(batch.census, expected[order])
    assert len(torch.unique(batch.census, dim=0)) > 8
    coarse = Processor(train_tokenizer(texts, 400), settings, 4, image_token_id=2)
    assert (Mixture([source], coarse, 4, 16, seed=1).batch(0).census == OUTSIDE).all()
