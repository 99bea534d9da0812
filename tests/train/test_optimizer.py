"""Moments of eight bits: smaller, near enough, and back bit for bit when a run goes on."""

import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
import toy

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.model import VLMamba
from vlmamba.train.checkpoint import load_newest
from vlmamba.train.loop import run_stage
from vlmamba.train.memory import memory
from vlmamba.train.optimizer import build_optimizer
from vlmamba.train.stages import freeze_for

EIGHT_BITS = replace(toy.STAGE, optimizer="adamw8bit")


def wide_model() -> VLMamba:
    """As `toy.make_model`, with matrices of more than 4096 numbers: smaller ones keep moments of 32 bits."""
    torch.manual_seed(0)
    vision = VisionConfig("siglip", 12, 20, 3, 2, 8, 4, 1e-6, "gelu_pytorch_tanh")
    text = MambaConfig(d_model=48, n_layer=2, vocab_size=40, d_state=5)
    return VLMamba(ModelConfig(vision, ConnectorConfig(), text, image_token_id=toy.IMAGE))


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("bitsandbytes")


def test_a_large_matrix_keeps_two_bytes_a_weight_and_their_scales():
    model = wide_model()
    freeze_for(model, "finetune")
    optimizer = build_optimizer(model, EIGHT_BITS)
    matrix = model.model.language_model.layers[0].get_parameter("mixer.in_proj.weight")
    vector = model.model.language_model.layers[0].get_parameter("mixer.D")
    for parameter in (matrix, vector):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = {k: v for k, v in optimizer.state[matrix].items() if k not in ("step", "qmap1", "qmap2")}
    taken = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
    assert taken == matrix.numel() * 2 * (1 + 4 / 256)
    assert optimizer.state[vector]["state1"].dtype == torch.float32

    def counted(stage):
        return memory(model.config, stage, 30, 2, 10).optimizer

    ratio = counted(EIGHT_BITS) / counted(toy.STAGE)
    assert ratio == pytest.approx(taken / (8 * matrix.numel()))


def test_its_losses_are_near_those_of_32_bits():
    losses = [
        run_stage(wide_model(), toy.RandomBatches(), stage).losses
        for stage in (toy.STAGE, EIGHT_BITS)
    ]
    assert losses[0] != losses[1]
    assert list(losses[1].values()) == pytest.approx(list(losses[0].values()), rel=0.05)


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    class Interrupted(toy.RandomBatches):
        def batch(self, index):
            if index == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().batch(index)

    straight = wide_model()
    run_stage(straight, toy.RandomBatches(), EIGHT_BITS)
    assert run_stage(wide_model(), Interrupted(), EIGHT_BITS, tmp_path).step == 6
    found = load_newest(tmp_path / "checkpoints")
    assert found is not None
    assert {tensor.dtype for tensor in found.optimizer.values()} >= {torch.uint8, torch.int64}
    model = wide_model()
    run_stage(model, toy.RandomBatches(), EIGHT_BITS, tmp_path, resume=True)
    assert toy.same(toy.weights(model), toy.weights(straight))


@pytest.mark.parametrize("values", [{"parallel": "fsdp"}, {"max_skipped": 1}])
def test_what_it_cannot_do_is_refused(values):
    with pytest.raises(ValueError, match="adamw8bit takes whole tensors"):
        replace(EIGHT_BITS, **values)


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as import sees what is not installed
    model = wide_model()
    freeze_for(model, "finetune")
    with pytest.raises(ImportError, match=r"pip install 'vlmamba\[quantised\]'"):
        build_optimizer(model, EIGHT_BITS)
