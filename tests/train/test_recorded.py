"""A recorded stage computes what the loop computes."""

from dataclasses import replace

import pytest
import torch

from vlmamba.ablation.rows import VARIANTS
from vlmamba.ablation.scale import find_scale
from vlmamba.model import VLMamba
from vlmamba.train.answering import answering
from vlmamba.train.loop import run_stage
from vlmamba.train.pool import Pool, PoolBatches
from vlmamba.train.recorded import run_recorded
from vlmamba.train.step import NonFiniteError

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SCALE = find_scale("tiny")
STAGE = replace(SCALE.stage("finetune").config, steps=6, batch_size=4, lr=1e-2, clip=0.5)


@pytest.fixture
def pool():
    """Made-up features of twelve pictures, each with a question of two tokens and an answer of three."""
    vision = SCALE.recipe.model.vision
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, vision.num_patches, vision.hidden_size, generator=generator)
    words = torch.randint(3, 512, (12, 5), generator=generator)
    pictures = torch.full((12, vision.num_patches), 2)
    ids = torch.cat([torch.full((12, 1), 7), pictures, words], 1)
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = words[:, -3:]
    return Pool(features, ids, labels)


def _model():
    torch.manual_seed(0)
    return VLMamba(SCALE.model(VARIANTS["vss-l2-bsm"]))


@pytest.mark.parametrize("name", ["align", "finetune"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_GPU)])
def test_as_the_loop(pool, name, device):
    stage = replace(STAGE, name=name, max_skipped=1)
    models = _model().to(device), _model().to(device)
    pool = Pool(pool.features.to(device), pool.input_ids.to(device), pool.labels.to(device))
    for model, train in zip(models, (run_stage, run_recorded), strict=True):
        batches = PoolBatches(pool, 4, seed=5)
        _, objective = answering(model, batches, stage)
        train(model, batches, stage, objective=objective)
    start, changed, apart = dict(_model().named_parameters()), 0, []
    for (key, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if device == "cpu":
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
        apart.append((one - other).detach().abs().flatten())
        changed += int(not torch.equal(one.cpu(), start[key]))
    # On a GPU sums come in any order, and a step of AdamW is as long for the smallest gradient: a weight here and there
    # goes the other way, which is much of a tensor of a few.
    assert torch.cat(apart).mean() < 1e-4
    assert changed > 5


def test_an_update_that_is_not_finite(pool):
    pool.features[3] = float("nan")
    batches = PoolBatches(pool, 4, seed=5)
    model = _model()
    _, objective = answering(model, batches, STAGE)
    with pytest.raises(NonFiniteError, match="stage finetune: not finite; 2 updates"):
        run_recorded(model, batches, replace(STAGE, max_skipped=1), objective)
    run_recorded(model, batches, replace(STAGE, max_skipped=2), objective)
    assert all(p.isfinite().all() for p in model.parameters())


def test_every_pass_shows_every_sample_once_and_seeds_differ(pool):
    orders = []
    for seed in (0, 0, 1):
        batches = PoolBatches(pool, 4, seed)
        shown = torch.cat([batches.batch(index).features for index in range(3)])
        orders.append(shown)
        assert torch.equal(shown.sum((1, 2)).sort()[0], pool.features.sum((1, 2)).sort()[0])
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
