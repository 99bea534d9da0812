"""The mixture: shares, order, and that a batch is a function of its number alone."""

import numpy as np
import pytest
import torch

from vlmamba.data.augment import (
    DRAWS,
    LAYOUT,
    PHOTO,
    Policies,
    Policy,
    _grid,
    _places,
    blend,
    view,
)
from vlmamba.data.lettering import LETTERING_DRAWS, lettering
from vlmamba.data.mixture import Mixture, Source, Texts
from vlmamba.data.patch_classes import UNKNOWN
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


def test_masks_become_words_on_grounds_and_letters_come_along(processor):
    masks = np.full((6, 48, 144), 255, np.uint8)
    letters = np.tile(np.arange(1, 13), (6, 1))
    words = Source(
        "words", masks, np.arange(6), [DIALOGUES[0]] * 6, PHOTO, 1.0,
        letters=letters, aspects=np.full(6, 3.0, np.float32),
        edges=np.tile(np.linspace(0, 1, 13, dtype=np.float32), (6, 1)),
    )  # fmt: skip
    mixture = Mixture([words, source("photos", 10, 3.0, classes=np.arange(10))], processor, 8, 8, 0)
    batch = mixture.batch(0)
    assert list(batch.counts) == ["photos", "words"]
    assert batch.pixel_values.shape == (8, 3, 8, 8)
    assert batch.letters[:6].eq(-1).all()
    assert batch.letters[6:].tolist() == letters[:2].tolist()
    assert batch.patches[:6].eq(UNKNOWN).all()
    assert batch.patches[6:].ge(0).all()


def test_small_pictures_are_enlarged_once(processor):
    mixture = Mixture([source("photos", 10, 1.0)], processor, 4, 12, 0)
    assert mixture.sources[0].pixels.shape == (10, 12, 12, 3)


def draws(b, n, seed=0):
    return torch.rand(b, n, generator=torch.Generator().manual_seed(seed))


def seen_by(policy, pixels, noise=None):
    b, size = pixels.shape[:2]
    noise = torch.zeros(3, size, size) if noise is None else noise
    return view(pixels, draws(b, DRAWS), noise, Policies([(policy, b)]))


def test_every_picture_has_its_own_policy():
    pixels = torch.randint(0, 256, (20, 8, 8, 3), dtype=torch.uint8)
    both = Policies([(Policy(), 10), (PHOTO, 10)])
    seen = (view(pixels, draws(20, DRAWS), torch.randn(3, 8, 8), both) + 1) / 2
    change = (seen - pixels.permute(0, 3, 1, 2) / 255).abs().mean((1, 2, 3))
    assert (change[:10] < 1e-5).all()
    assert (change[10:] > 0.05).all()


def test_colours_change_each_in_its_own_way():
    pixels = torch.randint(60, 190, (200, 8, 8, 3), dtype=torch.uint8)
    plain = pixels.permute(0, 3, 1, 2).float() / 255
    seen = (seen_by(Policy(colour=0.4), pixels) + 1) / 2
    brightness = seen.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    assert 0.5 < brightness.min() < 0.75
    assert 1.2 < brightness.max() < 1.6
    contrast = seen.std((1, 2, 3)) / plain.std((1, 2, 3))
    assert contrast.min() < 0.7
    assert contrast.max() > 1.2
    grey = (seen_by(Policy(colour=0.4, grey=1.0), pixels) + 1) / 2
    assert (grey.std(1).mean() / seen.std(1).mean()) < 0.2


def test_no_change_leaves_a_picture_as_it_is():
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    seen = seen_by(Policy(), pixels, torch.randn(3, 8, 8))
    torch.testing.assert_close(
        (seen + 1) / 2, pixels.permute(0, 3, 1, 2).float() / 255, atol=1e-5, rtol=0
    )


def test_a_flip_mirrors_and_a_layout_never_does():
    ramp = torch.arange(8, dtype=torch.uint8).mul(30)[None, None, :, None].expand(64, 8, 8, 3)
    flipped = seen_by(Policy(flip=0.5), ramp)
    rising = flipped[:, 0, 0, -1] > flipped[:, 0, 0, 0]
    assert 10 < rising.sum() < 54
    kept = seen_by(LAYOUT, ramp)
    assert (kept[:, 0, 4, -1] > kept[:, 0, 4, 0]).all()


def test_views_are_sampled_where_the_affine_grid_says():
    policy = Policies(
        [(Policy(area=0.3, aspect=1.3, degrees=30, shear=0.3, flip=0.5, bars=0.5), 6)]
    )
    draws = torch.rand(6, DRAWS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    maps, _ = _places(list(draws.unbind(1)), policy)
    expected = torch.nn.functional.affine_grid(maps, [6, 3, 11, 11], align_corners=False)
    torch.testing.assert_close(_grid(maps, 11), expected)


def test_bars_are_grey_and_shaped_as_the_processor_makes_them():
    white = torch.full((64, 32, 32, 3), 255, dtype=torch.uint8)
    seen = seen_by(Policy(area=0.3, bars=1.0), white)
    grey = (seen + 1 / 255).abs() < 1e-3
    assert (grey | (seen > 0.99)).all()
    rows, columns = grey[:, 0].all(2).sum(1), grey[:, 0].all(1).sum(1)
    assert ((rows == 0) | (columns == 0)).all()
    assert (rows + columns > 0).sum() > 40
    assert (rows + columns < 24).all()


def test_blending_keeps_account_of_what_is_left():
    pixels = torch.stack([torch.full((3, 16, 16), value) for value in (0.0, 1.0, 1.0)])
    partner = torch.tensor([1, 0, 2])
    for seed in range(8):
        blended, share = blend(pixels, partner, draws(3, 6, seed))
        assert share[2] == 1
        assert torch.equal(blended[2], pixels[2])
        assert blended[0].mean().item() == pytest.approx(1 - share[0].item(), abs=1e-5)
        assert blended[1].mean().item() == pytest.approx(share[1].item(), abs=1e-5)


def test_ink_can_be_told_from_its_ground():
    masks = torch.zeros(32, 48, 144, dtype=torch.uint8)
    masks[:, :, 48:96] = 255
    grounds = torch.full((32, 32, 32, 3), 200, dtype=torch.uint8)
    seen, x, y = lettering(
        masks, torch.full((32,), 1.0), grounds, draws(32, LETTERING_DRAWS), torch.zeros(3, 32, 32)
    )
    assert x.shape == y.shape == (32, 32, 32)
    assert seen.min() >= 0
    assert seen.max() <= 1
    inner = seen[:, :, 8:24].mean(1)
    assert ((inner.amax((1, 2)) - inner.amin((1, 2))) > 0.2).sum() >= 28
