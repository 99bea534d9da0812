"""A recipe from its first stage to a model that answers."""

import json
import os
import signal

import pytest
import torch
from processes import launch

from vlmamba import recipes
from vlmamba.checkpoints import load_model
from vlmamba.train import loop, run, runner
from vlmamba.vlm import VLM

SMALL = ["steps=2", "batch_size=1", "log_interval=1", *(
    f"{stage}.data.count=4" for stage in ("pretrain", "align", "finetune")
)]  # fmt: skip


def weights(directory):
    return load_model(directory)[0].state_dict()


def test_tiny_overfits_a_few_pictures_and_then_answers_right(tmp_path):
    """Six pictures, both of the paper's stages, and every question about them asked of the loaded model."""
    settings = ["pretrain.steps=60", "align.steps=20", "finetune.steps=120", "batch_size=1"]
    settings += [f"{stage}.data.count=6" for stage in ("pretrain", "align", "finetune")]
    output = run("tiny", settings=settings, output=tmp_path / "model")
    assert output == tmp_path / "model"
    vlm = VLM(*load_model(output))
    drawing = recipes.tiny().stages[-1].data.drawing
    asked = [(drawing.picture(k), *drawing.dialogue(k)[0]) for k in range(6)]
    answers = vlm.ask_many([(picture, question) for picture, question, _ in asked])
    assert answers == [answer for _, _, answer in asked]
    assert len(set(answers)) > 2


def test_stage_after_stage_equals_all_at_once(tmp_path):
    run("tiny", settings=SMALL, output=tmp_path / "whole")
    run("tiny", stage="align", settings=SMALL, output=tmp_path / "parts")
    aligned = weights(tmp_path / "parts")
    run("tiny", settings=SMALL, output=tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    moved = {name for name in whole if not torch.equal(whole[name], aligned[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("model.")} == {
        "connector",
        "language_model",
    }


def test_stopped_by_sigterm_and_resumed_equals_never_stopped(tmp_path, monkeypatch, capsys):
    run("tiny", settings=SMALL, output=tmp_path / "straight")
    original = loop.language_loss
    calls = []

    def interrupting(model, batch):
        calls.append(batch)
        if len(calls) == 3:  # in the first step of align
            os.kill(os.getpid(), signal.SIGTERM)
        return original(model, batch)

    monkeypatch.setattr(runner, "language_loss", interrupting)
    output = tmp_path / "stopped"
    assert run("tiny", settings=SMALL, output=output) is None
    assert "go on with --resume" in capsys.readouterr().err
    assert not (output / "model.safetensors").exists()
    assert run("tiny", settings=SMALL, output=output, resume=True) == output
    straight, resumed = weights(tmp_path / "straight"), weights(output)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def run_tiny(output, *settings):
    return run("tiny", settings=[*SMALL, "accumulation=2", *settings], output=output)


def test_two_processes_write_the_model_that_one_writes(tmp_path):
    # In a process with as many threads as the two have: AdamW makes a rate's difference of a sum's last bit.
    assert launch(1, run_tiny, tmp_path / "one") == [tmp_path / "one"]
    shared = ("align.parallel=fsdp", "finetune.parallel=fsdp-grad-op")
    assert launch(2, run_tiny, tmp_path / "two", *shared) == [tmp_path / "two"] * 2
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5, msg=name)


def test_a_directory_that_holds_a_run_is_not_trained_over(tmp_path):
    run("tiny", stage="pretrain", settings=SMALL, output=tmp_path)
    with pytest.raises(ValueError, match="already holds a run: add --resume"):
        run("tiny", settings=SMALL, output=tmp_path)
    with pytest.raises(ValueError, match=r"begun with pretrain\.lr=0\.003, not 0\.5"):
        run("tiny", settings=[*SMALL, "pretrain.lr=0.5"], output=tmp_path, resume=True)
    assert run(
        "tiny", stage="pretrain", settings=[*SMALL, "workers=1"], output=tmp_path, resume=True
    )


def test_the_run_is_written_down(tmp_path):
    run("tiny", stage="pretrain", settings=SMALL, output=tmp_path)
    settings = json.loads((tmp_path / "training" / "run.json").read_text())
    assert settings["recipe"] == "tiny"
    assert settings["align.steps"] == 2
    log = (tmp_path / "training" / "pretrain" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2]


def test_the_connector_that_only_served_to_train_the_parts_is_thrown_away(tmp_path):
    run("tiny", stage="pretrain", settings=SMALL, output=tmp_path)
    recipe = recipes.tiny()
    fresh = recipe.parts.model(recipe.model, recipe.seed)
    runner._renew_connector(fresh, recipe)
    saved = weights(tmp_path)
    for name, value in fresh.model.connector.state_dict().items():
        assert torch.equal(saved[f"model.connector.{name}"], value)
    assert not torch.equal(saved["lm_head.weight"], fresh.lm_head.weight)


def test_a_dry_run_shows_what_would_happen_and_writes_nothing(tmp_path, capsys):
    assert run("tiny", stage="align", settings=SMALL, dry_run=True, output=tmp_path / "out") is None
    shown = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert "  align.lr = 0.003" in shown
    assert "stage finetune" not in shown
    align = shown.split("stage align")[1]
    parts = {
        line.split()[0]: line.split()[-1]
        for line in align.splitlines()
        if line.startswith("  model.")
    }
    assert parts == {
        "model.vision_tower": "frozen",
        "model.connector": "trained",
        "model.language_model": "frozen",
    }
    assert "| <image x 16>[[A " in shown
    assert "white background." in shown


def test_a_dry_run_without_the_data_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = recipes.tiny().parts.processor(
        recipes.tiny().model, recipes.tiny().image, recipes.tiny().template
    )
    tokenizer.save(tmp_path / "tokenizer")
    run("vl-mamba-2.8b", settings=[f"parts.tokenizer={tmp_path / 'tokenizer'}"], dry_run=True)
    shown = capsys.readouterr().out
    assert "first batch not shown: this is not the GPT-NeoX tokenizer" in shown
    assert "2,768,345,600" in shown


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no recipe 'tinyy': did you mean tiny\?"):
        run("tinyy")
    with pytest.raises(
        ValueError, match="no stage 'pretune': use one of pretrain, align, finetune"
    ):
        run("tiny", stage="pretune")
