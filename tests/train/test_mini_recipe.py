"""The mini recipe, cut small: all four stages from packs to a model directory, and the tower's share in them."""

import numpy as np
import pytest
import torch
from pack_files import write_pack
from PIL import Image

from vlmamba import load, recipes
from vlmamba.data.mini import MiniPictures, MiniTexts
from vlmamba.train import overrides, run

SMALL = [
    "steps=1", "batch_size=12", "precision=float32", "log_interval=1", "drawn=6", "words=6", "scenes=6",
    "boxes=6",
    "model.vision.hidden_size=32", "model.vision.intermediate_size=32", "model.vision.num_hidden_layers=1",
    "model.text.d_model=16", "model.text.n_layer=1", "model.text.vocab_size=800",
]  # fmt: skip


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("packs")
    colours = [(200, 30, 30), (30, 30, 200)] * 3
    y = np.array([0, 1] * 3)
    for name, size in (("cifar10_train", 32), ("cifar10_dev", 32), ("caltech101_train_128", 128)):
        pictures = [Image.new("RGB", (size, size), colour) for colour in colours]
        write_pack(directory / f"{name}.npz", pictures, y=y, meta={"classes": ["ship", "frog"]})
    words = [Image.new("RGB", (60, 20), "white")] * 2
    write_pack(
        directory / "iiit5k_train.npz", words, i=np.array([0, 1]), meta={"texts": ["OPEN", "shop"]}
    )
    return directory


@pytest.fixture(autouse=True)
def no_easy_vqa(monkeypatch):
    """The package brings thousands of questions, installed or not."""
    monkeypatch.setattr("vlmamba.data.mini.easy_vqa", lambda split: ({}, []))
    monkeypatch.setattr("vlmamba.data.mini.FASHION_DIRECTORIES", ())


def test_all_stages_end_in_a_model_that_answers(packs, tmp_path):
    directory = run("mini", settings=[f"packs={packs}", *SMALL], output=tmp_path / "mini")
    assert directory is not None
    assert {path.name for path in (directory / "training").iterdir() if path.is_dir()} == {
        "processor", "teacher", "pretrain", "language", "align", "finetune",
    }  # fmt: skip
    assert isinstance(load(directory).ask(Image.new("RGB", (50, 30)), "What is this?"), str)


def test_the_first_stage_trains_the_tower_of_the_model_itself(packs, tmp_path):
    recipe = overrides.apply(recipes.mini(), [f"packs={packs}", *SMALL])
    processor = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
    model = recipe.parts.model(recipe.model, 0)
    patches = model.model.vision_tower.embeddings.patch_embedding.weight
    before = patches.clone()
    entry = recipe.stages[1]
    batches = entry.data.batches(processor, 12, 128, 0)
    trainee, objective = entry.trainee(model, batches, entry.config)
    assert set(trainee.spans) == {"cifar10", "caltech101"}
    optimizer = torch.optim.SGD(trainee.parameters(), 0.1)
    total, count = objective(trainee, batches.batch(0))
    (total / count).backward()
    optimizer.step()
    assert not torch.equal(patches, before)


def test_validation_packs_and_words_to_read_stay_out(packs):
    pictures = MiniPictures(str(packs), drawn=3, words=3, boxes=3)
    names = [source.name for source in pictures.sources()]
    assert names == ["cifar10", "caltech101", "iiit5k_train", "boxes", "drawn", "words"]
    told = " ".join(pictures.texts())
    assert "ship" in told
    assert "OPEN" not in told


def test_texts_have_no_pictures(packs):
    recipe = overrides.apply(recipes.mini(), [f"packs={packs}", *SMALL])
    processor = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
    batch = MiniTexts(str(packs), drawn=6, words=6, boxes=6).batches(processor, 4, 64, 0).batch(0)
    assert batch.pixel_values is None
    assert (batch.input_ids != recipe.model.image_token_id).all()


def test_packs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no training packs"):
        run("mini", settings=[f"packs={tmp_path}"], output=tmp_path / "out")
