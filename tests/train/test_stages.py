"""What each stage trains, and at which rate."""

from dataclasses import replace

import pytest
import torch
import toy

from vlmamba.train.loop import run_stage
from vlmamba.train.optimizer import build_optimizer, decayed
from vlmamba.train.stages import StageConfig, freeze_for, learning_rate

TRAINED_PARTS = {
    "pretrain": {"vision_tower", "connector", "language_model"},
    "language": {"language_model"},
    "align": {"connector"},
    "finetune": {"connector", "language_model"},
}


def part(name: str) -> str:
    return name.split(".")[1] if name.startswith("model.") else name.split(".")[0]


@pytest.mark.parametrize("stage", TRAINED_PARTS)
def test_the_parameters_of_a_stage_are_its_parts_and_all_of_them(stage):
    model = toy.make_model()
    trained = set(freeze_for(model, stage))
    expected = {n for n, _ in model.named_parameters() if part(n) in TRAINED_PARTS[stage]}
    assert trained == expected
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


@pytest.mark.parametrize("stage", ["language", "finetune"])
def test_an_untied_head_trains_with_the_language_model(stage):
    assert "lm_head.weight" in freeze_for(toy.make_model(tied=False), stage)


@pytest.mark.parametrize("stage", TRAINED_PARTS)
def test_a_step_moves_the_trained_parameters_and_no_other(stage):
    model = toy.make_model()
    before = toy.weights(model)
    run_stage(model, toy.RandomBatches(), replace(toy.STAGE, name=stage, steps=1))
    moved = {
        name for name, value in toy.weights(model).items() if not torch.equal(value, before[name])
    }
    assert moved == {name for name in before if part(name) in TRAINED_PARTS[stage]}


def test_weight_decay_is_for_matrices_that_mix_features():
    model = toy.make_model()
    freeze_for(model, "pretrain")
    kept = {name for name, _, decay in decayed(model) if not decay}
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim < 2 or name.endswith(
            ("A_log", "embeddings.weight", "embedding.weight")
        )
        exempt &= not name.endswith("patch_embedding.weight")
        assert (name in kept) == exempt, name
    assert any(name.endswith("A_log") for name in kept)
    assert any(name.endswith("mixer.D") for name in kept)


def test_the_optimizer_holds_every_trained_parameter_once():
    model = toy.make_model()
    trained = freeze_for(model, "finetune")
    optimizer = build_optimizer(model, toy.STAGE)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in trained.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]


def test_the_rate_warms_up_and_falls_along_a_cosine():
    stage = StageConfig("align", lr=2.0, batch_size=1, steps=100, warmup_ratio=0.1)
    rates = [learning_rate(stage, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (k + 1) for k in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.001
    floor = replace(stage, min_lr_ratio=0.1)
    assert learning_rate(floor, 99, 100) == pytest.approx(0.2, rel=1e-2)


def test_llavas_stages_have_the_published_numbers_of_steps():
    align = StageConfig("align", lr=1e-3, batch_size=256, epochs=1)
    assert align.total_steps(-(-558_128 // 256)) == 2181
    rates = [learning_rate(align, step, 2181) for step in range(2181)]
    assert rates.index(max(rates)) == 65  # 66 steps of warm-up


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "stage3"}, "'stage3' is unknown"),
        ({"steps": None}, "needs steps or epochs"),
        ({"epochs": 1.0}, "needs steps or epochs"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"precision": "fp16"}, "'fp16' is unknown"),
        ({"recompute": "half"}, "'half' is unknown"),
        ({"warmup_ratio": 1.5}, "warmup_ratio must be between 0 and 1"),
        ({"workers": -1}, "workers must be 0 or more"),
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        replace(toy.STAGE, **values)
