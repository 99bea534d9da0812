"""Tower pre-training: blending hides what it blends, heads and reader both teach the tower."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from PIL import Image

from vlmamba.config import IGNORE_INDEX, ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.census import OUTSIDE, SLOTS, VALUES
from vlmamba.data.mixture import MixtureBatch
from vlmamba.data.patch_classes import NO_THING, UNKNOWN
from vlmamba.train.stages import freeze_for
from vlmamba.train.teacher import EfficientNetLite0, TeacherTuning, load_teacher, parts, spans
from vlmamba.train.tower import TowerPretraining
from vlmamba.vision import VisionTower

CONFIG = ModelConfig(
    VisionConfig("siglip", 16, 32, 2, 2, 8, 4, 1e-6, "gelu_pytorch_tanh", feature_layer=-1),
    ConnectorConfig(),
    MambaConfig(16, 2, 40, d_state=4),
    image_token_id=2,
)


def a_batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (7, 10), generator=generator)
    ids[:, 1:5] = 2
    labels = ids.clone()
    labels[:, :6] = IGNORE_INDEX
    pixels = torch.rand(7, 3, 8, 8, generator=generator)
    letters = torch.full((7, 12), -1)
    letters[6] = torch.arange(12)
    patches = torch.full((7, 4), UNKNOWN)
    patches[5] = torch.tensor([NO_THING, NO_THING, NO_THING + 1, NO_THING + 2])
    census = torch.full((7, 4, SLOTS), OUTSIDE, dtype=torch.int8)
    census[4, :2] = torch.arange(SLOTS) % VALUES
    return MixtureBatch(
        ids, labels, pixels, classes=torch.tensor([0, 1, 2, 0, -1, -1, -1]), letters=letters, patches=patches,
        census=census, draws=torch.rand(7, 6, generator=generator), counts={"photos": 4, "shapes": 2, "words": 1},
    )  # fmt: skip


def pretraining(teacher=None):
    torch.manual_seed(0)
    return TowerPretraining(VisionTower(CONFIG.vision), CONFIG, {"photos": 3}, teacher)


def test_classes_stand_side_by_side():
    columns = spans({"a": 3, "b": 2})
    assert columns == {"a": slice(0, 3), "b": slice(3, 5)}
    found = parts({"b": 4, "x": 5, "a": 1}, columns)
    assert found == [(slice(0, 4), slice(3, 5)), (slice(9, 10), slice(0, 3))]


def test_every_objective_reaches_the_tower():
    batch = a_batch()
    silent = {
        "labels": torch.full_like(batch.labels, IGNORE_INDEX),
        "letters": batch.letters.clamp(max=-1),
        "patches": batch.patches.clamp(max=-1),
        "census": batch.census.clamp(max=-1),
    }
    whole = pretraining()(batch).item()
    for name, nothing in silent.items():
        assert pretraining()(replace(batch, **{name: nothing})).item() < whole
    model = pretraining()
    model(batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.tower.parameters())
    assert model.letters.queries.grad.abs().sum() > 0
    assert model.shown.weight.grad.abs().sum() > 0
    assert model.census.weight.grad.abs().sum() > 0


def test_a_census_is_learnt_slot_by_slot():
    model, batch = pretraining(), a_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.census_loss(model.tower(batch.pixel_values[4:5]), batch.census[4:5])
        loss.backward()
        optimizer.step()
    found = model.census(model.tower(batch.pixel_values[4:5])).view(4, SLOTS, VALUES).argmax(2)
    assert torch.equal(found[:2], batch.census[4, :2].long())
    assert loss.item() < 0.1


def test_a_blended_picture_has_both_labels():
    model = pretraining()
    logits = torch.full((4, 3), -20.0)
    logits[0, :2] = 20.0
    logits[1, 1] = logits[2, 2] = logits[3, 0] = 20.0
    classes, partner = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 2, 3])
    counts = {"photos": 4}

    def loss(share):
        return model.class_loss(logits, torch.tensor(share), classes, counts, partner).item()

    assert loss([0.5, 1.0, 1.0, 1.0]) == pytest.approx(loss([1.0, 1.0, 1.0, 1.0]), abs=1e-4)
    assert loss([0.5, 0.5, 1.0, 1.0]) > loss([0.5, 1.0, 1.0, 1.0]) + 1


def test_it_learns_to_name_a_handful_of_pictures():
    model, batch = pretraining(), a_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    assert model.named("photos", batch.pixel_values[:4]).tolist() == [0, 1, 2, 0]
    assert np.isfinite(model(batch).item())


def test_the_teacher_is_followed_but_neither_trained_nor_kept():
    torch.manual_seed(0)
    teacher = TeacherTuning(EfficientNetLite0(), {"photos": 3})
    model = pretraining(teacher)
    assert not any("_conv_stem" in name for name in model.state_dict())
    freeze_for(model, "pretrain")
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    logits = torch.randn(4, 3)
    same = model.distance(logits, logits, {"photos": 4})
    other = model.distance(logits, logits.flip(0) * 3, {"photos": 4})
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert other.item() > 0.3
    model(a_batch()).backward()
    assert model.features_head.weight.grad.abs().sum() > 0
    assert model.middle_head.weight.grad.abs().sum() > 0


def test_the_teachers_features_are_followed_place_by_place():
    torch.manual_seed(0)
    model = pretraining(TeacherTuning(EfficientNetLite0(), {"photos": 3}))
    photos, middle = torch.randn(5, 4, 16), torch.randn(5, 112, 2, 2)
    last = F.linear(photos, model.features_head.weight, model.features_head.bias)
    last = last.transpose(1, 2).unflatten(2, (2, 2))
    there = model.places(photos, middle, last).item()
    elsewhere = model.places(photos, middle, last.flip(3)).item()
    assert elsewhere > there + 0.3


def test_a_teacher_learns_each_picture_among_its_own_classes():
    torch.manual_seed(0)
    tuning = TeacherTuning(EfficientNetLite0(), {"photos": 3, "words": 2})
    pixels = torch.rand(4, 3, 32, 32)
    tuning.loss(pixels, torch.tensor([0, 1, 2, 0]), {"photos": 4}).backward()
    assert tuning.head.weight.grad[:3].abs().sum() > 0
    assert tuning.head.weight.grad[3:].abs().sum() == 0


@pytest.mark.parametrize(
    ("file", "expected"), [("coffee.png", {967, 968}), ("chelsea.png", {281, 282, 285})]
)
def test_the_published_teacher_knows_a_cup_from_a_cat(file, expected):
    teacher = load_teacher()
    assert teacher is not None, "install the extra `train`"
    picture = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize(
        (224, 224), Image.Resampling.BICUBIC
    )
    pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        _, logits = teacher(pixels)
    assert logits.argmax().item() in expected


def test_a_folded_teacher_says_the_same():
    torch.manual_seed(0)
    teacher = EfficientNetLite0()
    pixels = torch.rand(8, 3, 32, 32)
    teacher(pixels)  # statistics other than the initial ones
    teacher.eval()
    with torch.no_grad():
        before = teacher(pixels)
        teacher.fold(torch.float32)
        after = teacher(pixels)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in teacher.modules())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
