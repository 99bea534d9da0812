"""A stage over files in LLaVA's format, from the pictures on the disk to the last step; one picture is broken."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_config, tiny_processor

from vlmamba.data.llava import LlavaData
from vlmamba.data.samples import TooManyBadError
from vlmamba.model import VLMamba
from vlmamba.train.checkpoint import load_newest
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.stages import StageConfig


@pytest.fixture
def folder(tmp_path):
    """Twenty samples about pictures, number 7 of which is torn, and five without."""
    rng = np.random.default_rng(0)
    samples = []
    for k in range(25):
        turns = [
            {"from": "human", "value": f"<image>\nWhat is {k}?"},
            {"from": "gpt", "value": f"It is {k}."},
        ]
        sample = {"id": f"s{k}", "conversations": turns}
        if k < 20:
            sample["image"] = f"{k}.jpg"
            pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{k}.jpg")
        samples.append(sample)
    (tmp_path / "7.jpg").write_bytes((tmp_path / "7.jpg").read_bytes()[:900])
    (tmp_path / "data.json").write_text(json.dumps(samples))
    return tmp_path


def train(folder, packed=True, max_bad=0.05):
    """One epoch; the names of the samples in the order in which they were learnt from."""
    stage = StageConfig(
        "finetune", lr=1e-3, batch_size=2, epochs=1, accumulation=2, max_length=128, precision="float32",
        workers=2, log_interval=1,
    )  # fmt: skip
    data = LlavaData(str(folder / "data.json"), str(folder), packed, max_bad)
    batches = data.batches(tiny_processor(), stage.batch_size, stage.max_length, seed=0)
    seen = []

    def objective(model, batch):
        seen.extend(batch.sample_ids)
        return language_loss(model, batch)

    torch.manual_seed(0)
    result = run_stage(VLMamba(tiny_config()), batches, stage, folder / "run", objective=objective)
    assert result.finished
    return seen


@pytest.mark.parametrize("packed", [True, False])
def test_an_epoch_learns_from_every_sample_that_can_be_read(folder, packed, caplog):
    seen = Counter(train(folder, packed))
    assert {f"s{k}" for k in range(25)} - set(seen) == {"s7"}
    assert "a picture ends too early: sample s7 (" in caplog.text
    found = load_newest(folder / "run" / "checkpoints")
    assert found is not None
    assert found.unreadable == 1


def test_one_broken_picture_is_too_many_where_none_may_be(folder):
    with pytest.raises(TooManyBadError, match="1 samples could not be read, max_bad allows 0"):
        train(folder, max_bad=0.0)
