"""LoRA: adapters train in the language model's place, survive a stop, and end up in its matrices."""

import os
import signal
import sys
from dataclasses import replace

import pytest
import torch
from processes import launch
from tiny import tiny_config

from vlmamba.checkpoints import load_model
from vlmamba.model import VLMamba
from vlmamba.train import adapters, loop, run, runner
from vlmamba.train.adapters import PROJECTIONS, Lora
from vlmamba.train.optimizer import build_optimizer
from vlmamba.train.stages import StageConfig, freeze_for

LORA = Lora(rank=2, alpha=4.0, dropout=0.0)
IDS = torch.tensor([[5, 250, 17, 17, 3, 99]])
SMALL = ["steps=3", "batch_size=1", "log_interval=1", *(
    f"{stage}.data.count=4" for stage in ("pretrain", "align", "finetune")
)]  # fmt: skip
ADAPTED = [*SMALL, "finetune.lora.rank=2", "finetune.lora.alpha=8"]


def small_model() -> VLMamba:
    torch.manual_seed(0)
    return VLMamba(tiny_config())


def fill_adapters(model: VLMamba) -> None:
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def stage(**changes) -> StageConfig:
    return StageConfig(**{"name": "finetune", "lr": 1e-3, "batch_size": 1, "steps": 1} | changes)


def test_fresh_adapters_change_nothing_and_every_projection_has_one():
    model = small_model()
    before = model(IDS).logits
    adapters.add(model, LORA, seed=3, bf16=False)
    assert torch.equal(model(IDS).logits, before)
    names = {n for n, _ in model.named_parameters() if adapters.MARK in n}
    assert len(names) == 2 * 2 * len(PROJECTIONS)  # layers, A and B
    assert all(name.startswith("model.language_model.layers.") for name in names)


def test_every_adapter_takes_effect_and_merging_keeps_the_function():
    """dt_proj too, whose weight a scan might have taken past the adapter."""
    model = small_model()
    config, names = model.config, model.state_dict().keys()
    plain = model(IDS).logits
    adapters.add(model, LORA, seed=3, bf16=False)
    fill_adapters(model)
    adapted = model(IDS).logits
    for projection in PROJECTIONS:
        other = small_model()
        adapters.add(other, LORA, seed=3, bf16=False)
        fill_adapters(other)
        with torch.no_grad():
            for name, parameter in other.named_parameters():
                if "lora_B" in name and projection not in name:
                    parameter.zero_()
        assert (other(IDS).logits - plain).abs().max() > 3e-6, projection  # dt is small at first
    adapters.merge(model)
    assert model.config == config
    assert model.state_dict().keys() == names
    assert not any("lora" in name for name, _ in model.named_modules())
    torch.testing.assert_close(model(IDS).logits, adapted)


def test_the_seed_alone_draws_them():
    a, b, c = small_model(), small_model(), small_model()
    adapters.add(a, LORA, seed=1, bf16=False)
    torch.rand(5)
    adapters.add(b, LORA, seed=1, bf16=False)
    adapters.add(c, LORA, seed=2, bf16=False)
    name = "model.language_model.layers.1.mixer.in_proj.lora_A.default.weight"
    assert torch.equal(a.get_parameter(name), b.get_parameter(name))
    assert not torch.equal(a.get_parameter(name), c.get_parameter(name))


def test_adapters_and_connector_train_and_nothing_else():
    model = small_model()
    adapters.add(model, LORA, seed=3, bf16=False)
    trained = freeze_for(model, "finetune")
    assert all(adapters.MARK in n or n.startswith("model.connector.") for n in trained)
    assert {n.split(".")[1] for n in trained} == {"connector", "language_model"}
    assert all(adapters.MARK in name for name in freeze_for(model, "language"))
    optimizer = build_optimizer(model, stage(lora=LORA))
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    assert {rates[id(p)] for n, p in trained.items() if "connector" in n and id(p) in rates} <= {
        0.1
    }
    freeze_for(model, "finetune")
    optimizer = build_optimizer(model, stage(lora=LORA))
    assert {group["rate"] for group in optimizer.param_groups} == {1.0, 0.1}


def test_frozen_matrices_are_halved_and_tied_ones_stay_tied():
    model = small_model()
    adapters.add(model, LORA, 3, bf16=True)
    kinds = {name: p.dtype for name, p in model.named_parameters()}
    language = "model.language_model."
    assert kinds[f"{language}layers.0.mixer.in_proj.base_layer.weight"] == torch.bfloat16
    assert kinds[f"{language}embeddings.weight"] == torch.bfloat16
    for name in (
        "A_log",
        "D",
        "conv1d.weight",
        "dt_proj.base_layer.bias",
        "in_proj.lora_A.default.weight",
    ):
        assert kinds[f"{language}layers.0.mixer.{name}"] == torch.float32
    assert kinds["model.connector.linear_1.weight"] == torch.float32
    assert model.lm_head.weight is model.model.language_model.embeddings.weight
    fill_adapters(model)
    with torch.autocast("cpu", torch.bfloat16):
        adapted = model(IDS).logits
    adapters.merge(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.language_model.embeddings.weight
    torch.testing.assert_close(model(IDS).logits, adapted.float(), rtol=0.05, atol=0.05)


def test_four_bits_are_the_rounded_model_and_merge_into_a_plain_one():
    """Learning starts from what dequantising gives, and ends in it plus the adapters."""
    dequantised = pytest.importorskip("bitsandbytes").functional.dequantize_4bit
    model, plain = small_model(), small_model()
    names = model.state_dict().keys()
    adapters.add(model, replace(LORA, frozen="nf4"), seed=3, bf16=False)
    rounded = 0
    with torch.no_grad():
        for name, module in model.named_modules():
            if ".mixer." in name and name.endswith(adapters.QUANTISED):
                base = module.get_base_layer()
                assert base.weight.dtype == torch.uint8
                weight = plain.get_parameter(f"{name}.weight")
                exact = weight.clone()
                weight.copy_(dequantised(base.weight.data, base.weight.quant_state))
                assert 0 < (weight - exact).abs().max() < 0.2 * exact.abs().max()
                rounded += 1
    assert rounded == 2 * len(adapters.QUANTISED)
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits)
    fill_adapters(model)
    adapted = model(IDS).logits
    assert (adapted - plain(IDS).logits).abs().max() > 0.01
    freeze_for(model, "finetune")
    model(IDS).logits.square().sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if adapters.MARK in n)
    adapters.merge(model)
    assert model.state_dict().keys() == names
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(IDS).logits, adapted)


def test_four_bits_without_their_library_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"lora\.frozen=nf4 needs bitsandbytes: pip install"):
        adapters.add(small_model(), replace(LORA, frozen="nf4"), seed=3, bf16=False)


def weights(directory):
    return load_model(directory)[0].state_dict()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_stage_with_adapters_learns_and_writes_a_plain_model(tmp_path, precision):
    settings = [
        *ADAPTED,
        f"finetune.precision={precision}",
        "finetune.steps=12",
        "finetune.lr=2e-2",
    ]
    output = run("tiny", settings=[*settings, "finetune.data.count=2"], output=tmp_path / "model")
    assert output is not None
    log = (output / "training" / "finetune" / "log.jsonl").read_text().splitlines()
    first, last = (float(line.split('"loss": ')[1].split(",")[0]) for line in (log[0], log[-1]))
    assert last < first - 0.7  # the frozen language model has learnt next to nothing before
    run("tiny", stage="align", settings=SMALL, output=tmp_path / "before")
    before, after = weights(tmp_path / "before"), weights(output)
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    inside = {name.split("mixer.")[1] for name in moved if "mixer." in name}
    if precision == "float32":
        assert inside == {f"{projection}.weight" for projection in PROJECTIONS}
        assert "model.language_model.embeddings.weight" not in moved
    assert not any(name.startswith("model.vision_tower") for name in moved)
    stored = (output / "training" / "finetune" / "checkpoints").rglob("weights-*.safetensors")
    assert all(file.stat().st_size < 1_000_000 for file in stored)


def test_stopped_and_resumed_equals_never_stopped(tmp_path, monkeypatch):
    straight = run("tiny", settings=ADAPTED, output=tmp_path / "straight")
    original, calls = loop.language_loss, []

    def interrupting(model, batch):
        calls.append(batch)
        if len(calls) == 8:  # in the second step of finetune
            os.kill(os.getpid(), signal.SIGTERM)
        return original(model, batch)

    monkeypatch.setattr(runner, "language_loss", interrupting)
    output = tmp_path / "stopped"
    assert run("tiny", settings=ADAPTED, output=output) is None
    assert run("tiny", settings=ADAPTED, output=output, resume=True) == output
    a, b = weights(straight), weights(output)
    assert all(torch.equal(a[name], b[name]) for name in a)
    again = run("tiny", settings=ADAPTED, output=output, resume=True)
    assert again == output  # finished: merged once more from the same base
    assert all(torch.equal(tensor, weights(output)[name]) for name, tensor in a.items())


def run_adapted(output):
    settings = [*ADAPTED, "accumulation=2", "finetune.lora.dropout=0"]
    return run("tiny", settings=settings, output=output)


def test_two_processes_share_adapters_and_end_as_one(tmp_path):
    run_adapted(tmp_path / "one")
    assert launch(2, run_adapted, tmp_path / "two") == [tmp_path / "two"] * 2
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "align"}, "stage align does not train the language model"),
        ({"parallel": "fsdp"}, r"finetune\.parallel=ddp"),
        ({"lora": {"rank": -1}}, "a rank of 0 or more"),
        ({"lora": {"rank": 2, "dropout": 1.0}}, r"lora\.dropout must be"),
    ],
)
def test_settings_that_do_not_fit(changes, reason):
    with pytest.raises(ValueError, match=reason):
        stage(**changes | {"lora": Lora(**changes.get("lora", {"rank": 2}))})


def test_a_dry_run_counts_the_adapters(capsys):
    run("tiny", settings=ADAPTED, dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    [line] = [line for line in lines if "(LoRA)" in line]
    d, e, r = 64, 128, 4
    sizes = (d + 2 * e) + (e + r + 32) + (r + e) + (e + d)
    assert int(line.split()[-2].replace(",", "")) == 2 * 2 * sizes
