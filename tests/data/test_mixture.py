"""The mixture: shares, order, and that a batch is a function of its number alone."""

import numpy as np
import pytest
import torch

from vlmamba.data.augment import LAYOUT, PHOTO, Policy, augment
from vlmamba.data.mixture import Mixture, Source, Texts
from vlmamba.processing import IGNORE_INDEX, ImageSettings, Processor
from vlmamba.train.tokenizer import train_tokenizer

DIALOGUES = [[("What is this?", "cat")], [("Is it a dog?", "no"), ("What is it?", "owl")]]


@pytest.fixture(scope="module")
def processor():
    texts = [text for dialogue in DIALOGUES for turn in dialogue for text in turn]
    tokenizer = train_tokenizer(texts, 300)
    return Processor(tokenizer, ImageSettings(8, (0.5,) * 3, (0.5,) * 3), 4, image_token_id=2)


def source(name, pictures, share, policy=PHOTO, classes=None):
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, 6, 6, 3), dtype=np.uint8)
    picture = np.arange(2 * pictures) % pictures
    told = [DIALOGUES[i % 2] for i in range(2 * pictures)]
    count = 0 if classes is None else int(classes.max()) + 1
    return Source(name, pixels, picture, told, policy, share, classes, count)


@pytest.fixture
def mixture(processor):
    photos = source("photos", 10, 3.0, classes=np.arange(10) % 5)
    return Mixture([photos, source("shapes", 7, 1.0, LAYOUT)], processor, 8, 8, seed=3)


def test_every_batch_holds_each_source_in_its_share(mixture):
    batch = mixture.batch(0)
    assert batch.counts == {"photos": 6, "shapes": 2}
    assert batch.pixel_values.shape == (8, 3, 8, 8)
    assert batch.pixel_values.min() >= -1
    assert batch.pixel_values.max() <= 1
    assert (batch.classes[:6] >= 0).all()
    assert (batch.classes[6:] == -1).all()
    assert ((batch.input_ids == 2).sum(1) == 4).all()
    assert ((batch.labels == IGNORE_INDEX) | (batch.labels == batch.input_ids)).all()


def test_a_batch_depends_on_its_number_alone(mixture, processor):
    in_order = [mixture.batch(i) for i in range(6)]
    alone = mixture.batch(2)
    assert torch.equal(alone.pixel_values, in_order[2].pixel_values)
    assert torch.equal(alone.input_ids, in_order[2].input_ids)
    assert not torch.equal(in_order[0].pixel_values, in_order[1].pixel_values)


def test_a_pass_takes_no_row_twice(processor):
    texts = Texts([[("What is it?", str(n))] for n in range(12)], processor, 4, seed=0)
    assert len(texts) == 3
    rows = torch.cat([texts.batch(i).input_ids for i in range(3)])
    assert len({tuple(row) for row in rows.tolist()}) == 12


def test_no_change_leaves_a_picture_as_it_is():
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    view = augment(pixels, 8, Policy(), torch.Generator().manual_seed(0))
    torch.testing.assert_close(view, pixels.float() / 255, atol=1e-5, rtol=0)


def test_a_flip_mirrors_and_a_layout_never_does():
    ramp = torch.arange(8, dtype=torch.uint8).mul(30).expand(64, 3, 8, 8)
    flipped = augment(ramp, 8, Policy(flip=True), torch.Generator().manual_seed(0))
    rising = flipped[:, 0, 0, -1] > flipped[:, 0, 0, 0]
    assert 10 < rising.sum() < 54
    kept = augment(ramp, 8, LAYOUT, torch.Generator().manual_seed(0))
    assert (kept[:, 0, 4, -1] > kept[:, 0, 4, 0]).all()
