"""Tower pre-training: blending hides what it blends, heads and reader both teach the tower."""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from vlmamba.config import IGNORE_INDEX, ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.mixture import MixtureBatch
from vlmamba.train.stages import freeze_for
from vlmamba.train.teacher import EfficientNetLite0, load_teacher
from vlmamba.train.tower import TowerPretraining, blend
from vlmamba.vision import VisionTower

CONFIG = ModelConfig(
    VisionConfig("siglip", 16, 32, 2, 2, 8, 4, 1e-6, "gelu_pytorch_tanh", feature_layer=-1),
    ConnectorConfig(),
    MambaConfig(16, 2, 40, d_state=4),
    image_token_id=2,
)


def a_batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (6, 10), generator=generator)
    ids[:, 1:5] = 2
    labels = ids.clone()
    labels[:, :6] = IGNORE_INDEX
    pixels = torch.rand(6, 3, 8, 8, generator=generator)
    classes = torch.tensor([0, 1, 2, 0, -1, -1])
    return MixtureBatch(ids, labels, pixels, classes=classes, counts={"photos": 4, "shapes": 2})


def pretraining():
    torch.manual_seed(0)
    return TowerPretraining(VisionTower(CONFIG.vision), CONFIG, {"photos": 3}, reader_layers=1)


def test_blended_pictures_are_not_read():
    batch = a_batch()
    pixels, read, blended = blend(batch, pretraining().heads)
    assert read.tolist() == [2, 3, 4, 5]
    assert torch.equal(pixels[2:], batch.pixel_values[2:])
    partner, weight = blended["photos"]
    assert partner.tolist() == [1, 0, 2, 3]
    expected = weight[0] * batch.pixel_values[0] + (1 - weight[0]) * batch.pixel_values[1]
    torch.testing.assert_close(pixels[0], expected)


def test_heads_and_reader_both_reach_the_tower():
    model, batch = pretraining(), a_batch()
    model(batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.tower.parameters())
    unread = MixtureBatch(
        batch.input_ids, torch.full_like(batch.labels, IGNORE_INDEX), batch.pixel_values,
        classes=batch.classes, counts=batch.counts,
    )  # fmt: skip
    assert model(unread).item() < model(batch).item()


def test_it_learns_to_name_a_handful_of_pictures():
    model, batch = pretraining(), a_batch()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model(batch).backward()
        optimizer.step()
    assert model.accuracy("photos", batch.pixel_values[:4], batch.classes[:4]).item() == 1.0
    assert np.isfinite(model(batch).item())


def test_the_teacher_is_followed_but_neither_trained_nor_kept():
    torch.manual_seed(0)
    teacher = EfficientNetLite0().eval().requires_grad_(False)
    model = TowerPretraining(
        VisionTower(CONFIG.vision), CONFIG, {"photos": 3}, reader_layers=1, teacher=teacher
    )
    assert not any("_conv_stem" in name for name in model.state_dict())
    freeze_for(model, "pretrain")
    assert not any(p.requires_grad for p in teacher.parameters())
    pooled = torch.randn(2, 16)
    features, logits = torch.randn(2, 1280), torch.randn(2, 1000)
    with torch.no_grad():
        model.features_head.weight.zero_()
        model.features_head.bias.copy_(features[0])
        model.logits_head.weight.zero_()
        model.logits_head.bias.copy_(logits[0])
    same = model.distance(pooled[:1], features[:1], logits[:1])
    other = model.distance(pooled[1:], features[1:], logits[1:])
    assert same.item() == pytest.approx(0, abs=1e-5)
    assert other.item() > 0.5
    model(a_batch()).backward()
    assert model.logits_head.weight.grad.abs().sum() > 0


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
    _, logits = teacher(pixels)
    assert logits.argmax().item() in expected
