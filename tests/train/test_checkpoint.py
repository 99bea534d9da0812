"""Checkpoints: whole or passed over, never half, never of something else."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toy

from vlmamba.train import checkpoint, saver
from vlmamba.train.loop import language_loss, run_stage


@pytest.fixture
def trained(tmp_path):
    """A directory with the checkpoints of steps 4, 8 and 9."""
    run_stage(
        toy.make_model(), toy.RandomBatches(), replace(toy.STAGE, keep_checkpoints=3), tmp_path
    )
    return tmp_path


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


DAMAGES = {
    "a bit of the weights flipped": lambda d: flip(d / "weights-00000.safetensors"),
    "a bit of the optimiser flipped": lambda d: flip(d / "optimizer-00000.safetensors"),
    "the weights cut short": lambda d: os.truncate(d / "weights-00000.safetensors", 100),
    "the weights empty": lambda d: (d / "weights-00000.safetensors").write_bytes(b""),
    "the random state gone": lambda d: (d / "rng-00000.safetensors").unlink(),
    "the manifest gone": lambda d: (d / "manifest.json").unlink(),
    "the manifest torn": lambda d: os.truncate(d / "manifest.json", 60),
    "the step changed": lambda d: (d / "manifest.json").write_text(
        (d / "manifest.json").read_text().replace('"step": 9', '"step": 7')
    ),
    "a list for a manifest": lambda d: (d / "manifest.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_aloud(trained, damage, caplog):
    directory = trained / "checkpoints"
    DAMAGES[damage](directory / "step-00000009")
    found = checkpoint.load_newest(directory)
    assert found is not None
    assert found.step == 8
    assert "step-00000009 is damaged" in caplog.text
    assert "going on from checkpoint" in caplog.text


def test_resuming_from_the_one_before_ends_at_the_same_weights(trained):
    straight = toy.make_model()
    run_stage(straight, toy.RandomBatches(), toy.STAGE)
    flip(trained / "checkpoints" / "step-00000009" / "weights-00000.safetensors")
    model = toy.make_model()
    result = run_stage(model, toy.RandomBatches(), toy.STAGE, trained, resume=True)
    assert list(result.losses) == [9]
    assert toy.same(toy.weights(model), toy.weights(straight))


def test_when_every_checkpoint_is_damaged_nothing_is_trained(trained):
    for directory in (trained / "checkpoints").iterdir():
        flip(directory / "weights-00000.safetensors")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged"):
        run_stage(toy.make_model(), toy.RandomBatches(), toy.STAGE, trained, resume=True)


def test_no_checkpoint_is_no_error(tmp_path):
    assert checkpoint.load_newest(tmp_path / "none") is None


def test_only_the_newest_are_kept(tmp_path):
    run_stage(toy.make_model(), toy.RandomBatches(), toy.STAGE, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000008", "step-00000009"]


def test_frozen_weights_are_not_copied_but_recognised(trained, tmp_path):
    found = checkpoint.load_newest(trained / "checkpoints")
    assert found is not None
    assert not any("vision_tower" in name for name in found.weights)
    assert {name.split(".")[0] for name in found.optimizer} == {"exp_avg", "exp_avg_sq", "step"}
    other = toy.make_model()
    with torch.no_grad():
        other.model.vision_tower.embeddings.patch_embedding.weight[0, 0, 0, 0] += 1
    shorter = replace(toy.STAGE, keep_checkpoints=3)
    os.rename(trained / "checkpoints" / "step-00000009", tmp_path / "aside")
    with pytest.raises(ValueError, match="over other frozen weights"):
        run_stage(other, toy.RandomBatches(), shorter, trained, resume=True)


def test_another_number_of_steps_is_another_run(trained):
    with pytest.raises(ValueError, match="a stage of 9 steps, this one has 12"):
        run_stage(
            toy.make_model(),
            toy.RandomBatches(),
            replace(toy.STAGE, steps=12),
            trained,
            resume=True,
        )


def test_a_checkpoint_of_another_model_is_refused(trained):
    with pytest.raises(ValueError, match="is of another model"):
        run_stage(toy.make_model(tied=False), toy.RandomBatches(), toy.STAGE, trained, resume=True)


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half(trained, monkeypatch):
    write = saver.save_file

    def full(tensors, path):
        if path.name == "optimizer-00000.safetensors":
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(tensors, path)

    before = sorted(path.name for path in (trained / "checkpoints").iterdir())
    monkeypatch.setattr(saver, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        run_stage(toy.make_model(), toy.RandomBatches(), toy.STAGE, trained)
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == before
    found = checkpoint.load_newest(trained / "checkpoints")
    assert found is not None
    assert found.step == 9


def test_the_fingerprint_sees_one_bit():
    model = toy.make_model().requires_grad_(False)
    before = checkpoint.frozen_fingerprint(model)
    assert before == checkpoint.frozen_fingerprint(toy.make_model().requires_grad_(False))
    weight = model.model.connector.linear_1.weight
    weight.view(torch.int32)[3, 1] ^= 1
    assert checkpoint.frozen_fingerprint(model) != before


def test_the_random_state_comes_back(tmp_path):
    """An objective that draws random numbers, as dropout would, resumes exactly too."""

    def noisy(model, batch):
        total, count = language_loss(model, batch)
        return total * (1 + torch.rand(())), count

    straight = toy.make_model()
    run_stage(straight, toy.RandomBatches(), toy.STAGE, tmp_path, objective=noisy)
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000009")
    model = toy.make_model()
    result = run_stage(
        model, toy.RandomBatches(), toy.STAGE, tmp_path, objective=noisy, resume=True
    )
    assert list(result.losses) == [9]
    assert toy.same(toy.weights(model), toy.weights(straight))


def test_the_manifest_is_json_with_the_settings(trained):
    manifest = json.loads((trained / "checkpoints" / "step-00000009" / "manifest.json").read_text())
    assert manifest["config"]["stage"]["lr"] == toy.STAGE.lr
    assert manifest["step"] == manifest["total_steps"] == 9
