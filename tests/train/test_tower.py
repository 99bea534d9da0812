"""Tower pre-training: blending hides what it blends, heads and reader both teach the tower."""

import numpy as np
import torch

from vlmamba.config import IGNORE_INDEX, ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.data.mixture import MixtureBatch
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
    pixels, labels, blended = blend(batch, pretraining().heads)
    assert (labels[:2] == IGNORE_INDEX).all()
    assert torch.equal(labels[2:], batch.labels[2:])
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
