"""What training will take, told beforehand: operations as PyTorch counts them, memory by what is stored."""

from dataclasses import replace

import pytest
import toy
from torch.utils.flop_counter import FlopCounterMode

from vlmamba.recipes import vl_mamba_2_8b
from vlmamba.train import costs as costs_module
from vlmamba.train.adapters import Lora
from vlmamba.train.costs import costs
from vlmamba.train.loop import language_loss
from vlmamba.train.memory import memory
from vlmamba.train.stages import freeze_for

FULL = next(s.config for s in vl_mamba_2_8b().stages if s.config.name == "finetune")


@pytest.mark.parametrize("stage", ["align", "finetune", "pretrain"])
def test_operations_are_those_that_pytorch_counts(stage, monkeypatch):
    """PyTorch counts matrix products and no scan; what it does not see of convolutions is a few in a hundred."""
    monkeypatch.setenv("VLMAMBA_BACKEND", "reference")
    monkeypatch.setattr(costs_module, "SCAN_FLOPS", 0)
    model, batch = toy.make_model(), toy.RandomBatches().batch(0)
    freeze_for(model, stage)
    with FlopCounterMode(display=False) as counted:
        total, _ = language_loss(model, batch)
        total.backward()
    assert costs(model.config, replace(toy.STAGE, name=stage)).of(batch) == pytest.approx(
        counted.get_total_flops(), rel=0.08
    )


def test_a_picture_of_the_paper_s_tower_costs_two_thirds_of_a_teraflop():
    """27 layers less the last of SO400M's 412 M weights at 729 patches, and attention between them."""
    cost = costs(vl_mamba_2_8b().model, replace(FULL, name="align"))
    layer = 4 * 1152**2 + 2 * 1152 * 4304
    tower = 729 * (26 * (2 * layer + 4 * 729 * 1152) + 2 * 3 * 14**2 * 1152)
    connector = cost.picture - tower
    assert tower == pytest.approx(0.643e12, rel=0.01)
    assert 0 < connector < tower / 2
    # Frozen, the language model is passed twice: forward, and back to the connector.
    assert cost.token == pytest.approx(2 * 2 * 2.64e9, rel=0.02)


def needed(world: int = 1, **changes):
    stage = replace(FULL, **changes)
    return memory(vl_mamba_2_8b().model, stage, 16_384, 16, 2000, world)


def test_states_are_sixteen_bytes_of_a_trained_parameter_and_four_of_a_frozen_one():
    one = needed()
    states = one.weights + one.gradients + one.optimizer
    assert states == 16 * 2_819_097_600 + 4 * 397_745_440


def test_shards_divide_the_states_and_copies_do_not():
    one, copies, shards = needed(), needed(8), needed(8, parallel="fsdp", shard_tower=True)
    assert (copies.weights, copies.gradients) == (one.weights, one.gradients)
    for part in ("weights", "gradients", "optimizer"):
        assert getattr(shards, part) == pytest.approx(getattr(one, part) / 8)
    assert shards.activations == one.activations
    assert needed(8, parallel="fsdp").weights > shards.weights
    assert needed(8, parallel="fsdp-grad-op").copies > shards.copies


def test_what_is_computed_twice_is_not_kept():
    kept = [needed(recompute=what).activations for what in ("nothing", "scan", "mixer")]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < kept[0] / 4


def test_adapters_spare_the_masters_gradients_and_moments_of_what_they_stand_beside():
    pytest.importorskip("peft")
    adapted = needed(lora=Lora(rank=128))
    assert adapted.weights < 8.5e9  # two bytes of a matrix
    assert adapted.gradients + adapted.optimizer < 4e9
    whole, beside = (
        costs(vl_mamba_2_8b().model, s) for s in (FULL, replace(FULL, lora=Lora(rank=8)))
    )
    assert beside.token == pytest.approx(whole.token * 2 / 3)
