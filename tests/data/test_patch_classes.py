"""What patches show: the letter at a place, the thing that covers it, the middle of a thing once."""

import random

import numpy as np
import torch

from vlmamba.data.lettering import LETTERING_DRAWS, MASK, lettering
from vlmamba.data.patch_classes import (
    NO_LETTER,
    NO_THING,
    PATCH_CLASSES,
    letters_at,
    patch_weights,
    things_at,
)
from vlmamba.data.words import WordMasks, spelt


def test_a_place_in_a_word_has_its_letter():
    edges = torch.tensor([[0.0, 0.5, 0.75, 1.0, 1.0]])
    letters = torch.tensor([[3, 1, 20, 0]])
    x = torch.tensor([[-0.9, -0.1, 0.2, 0.9, 1.2, -0.9]])
    y = torch.tensor([[0.0, 0.5, 0.0, -1.0, 0.0, 1.5]])
    assert letters_at(x, y, edges, letters).tolist() == [[3, 3, 1, 20, NO_LETTER, NO_LETTER]]


def test_letters_lie_where_the_mask_has_ink():
    """A word of two letters, of which the second is a full stop: ink reaches high only where the first one is."""
    mask, _, edges = WordMasks(("M.",), ("M.",), (), *MASK).mask("M.", random.Random(1))
    column = int(edges[1] * mask.shape[1])
    assert 0.5 < edges[1] < 0.95
    assert (mask[:20, : column - 8] > 0).any()
    assert not (mask[:20, column + 4 :] > 0).any()


def test_letters_stand_in_reading_order_in_every_view():
    masks = torch.full((40, *MASK), 255, dtype=torch.uint8)
    edges = torch.linspace(0, 1, 13).repeat(40, 1)
    edges[:, 5:] = 1.0
    letters = torch.tensor([spelt("abcde")] * 40)
    grounds = torch.zeros(40, 64, 64, 3, dtype=torch.uint8)
    draws = torch.rand(40, LETTERING_DRAWS, generator=torch.Generator().manual_seed(0))
    _, x, y = lettering(masks, torch.full((40,), 3.0), grounds, draws, torch.zeros(3, 64, 64))
    found = letters_at(x[:, 32, 4::8], y[:, 32, 4::8], edges, letters)
    for row in found.tolist():
        seen = [k for k in row if k]
        assert seen == sorted(seen)
        assert len(set(seen)) >= 3


def test_things_cover_patches_and_have_one_middle():
    covers = np.zeros((64, 64), np.uint8)
    covers[0:32, 0:32] = 1 + 3  # a thing of kind 3 over four patches of sixteen
    covers[40:44, 40:44] = 1 + 0  # too small to cover a patch, but it has a middle
    shown = things_at(covers, [(0.3, 0.3), (0.65, 0.65)], 4) - NO_THING
    assert shown.tolist() == [[7, 7, 0, 0], [7, 8, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    covers[0:6, 0:16] = 1 + 7  # less of its patch than kind 3
    again = things_at(covers, [(0.3, 0.3), (0.65, 0.65)], 4) - NO_THING
    assert again.tolist() == shown.tolist()
    assert (things_at(np.zeros((64, 64), np.uint8), [], 4) == NO_THING).all()
    assert len(patch_weights()) == PATCH_CLASSES
    assert shown.max() + NO_THING < PATCH_CLASSES
