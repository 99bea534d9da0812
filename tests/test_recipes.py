"""Recipes: the paper's choices and LLaVA's numbers, and parts that are what they say."""

import pytest
import torch
from safetensors.torch import save_file

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.mamba import MambaLM
from vlmamba.model import VLMamba
from vlmamba.parts import PublicParts
from vlmamba.recipes import RECIPES, SAME_ROWS, TABLES, find
from vlmamba.train.memory import memory
from vlmamba.train.stages import freeze_for
from vlmamba.vision import VisionTower


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_found_by_its_name_and_ends_with_the_papers_stages(name):
    recipe = find(name)
    assert recipe.name == name
    assert [stage.config.name for stage in recipe.stages][-2:] == ["align", "finetune"]
    assert recipe.image.image_size == recipe.model.vision.image_size


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match=r"no recipe 'tinny': did you mean tiny\?"):
        find("tinny")
    with pytest.raises(ValueError, match=r"use one of tiny, .*vl-mamba-2\.8b"):
        find("qqq")


def test_the_papers_model_has_its_published_sizes():
    recipe = find("vl-mamba-2.8b")
    with torch.device("meta"):
        model = VLMamba(recipe.model)
    counts = {
        part: sum(p.numel() for p in getattr(model.model, part).parameters())
        for part in ("connector", "language_model")
    }
    assert counts["connector"] == pytest.approx(50.75e6, rel=1e-3)
    assert counts["language_model"] == pytest.approx(2.768e9, rel=1e-3)
    assert recipe.model.vision.num_patches == 729
    assert recipe.model.connector == ConnectorConfig(kind="vss-l2", scan="bsm")
    align, finetune = (stage.config for stage in recipe.stages)
    assert (align.lr, finetune.lr) == (1e-3, 2e-5)
    assert {(c.warmup_ratio, c.weight_decay, c.clip, c.epochs) for c in (align, finetune)} == {
        (0.03, 0.0, 1.0, 1)
    }


@pytest.mark.parametrize(
    ("name", "layout", "kind", "scan", "layers"),
    [
        ("table2-mamba-1.4b", "clip", "mlp", "bsm", 48),
        ("table2-mamba-2.8b-pile", "clip", "mlp", "bsm", 64),
        ("table2-mamba-2.8b-slimpj", "clip", "mlp", "bsm", 64),
        ("table3-siglip", "siglip", "mlp", "bsm", 64),
        ("table4-vss-mlp", "siglip", "vss-mlp", "bsm", 64),
        ("table5-csm", "siglip", "vss-l2", "csm", 64),
    ],
)
def test_the_rows_of_the_papers_tables(name, layout, kind, scan, layers):
    model = find(name).model
    assert model.vision.layout == layout
    assert (model.connector.kind, model.connector.scan) == (kind, scan)
    assert model.text.n_layer == layers


def test_rows_of_two_tables_are_one_recipe():
    assert find("table3-clip").name == "table2-mamba-2.8b-slimpj"
    assert find("table4-mlp").name == "table3-siglip"
    assert find("table4-vss-l2") == find("table5-bsm") == find("vl-mamba-2.8b")
    rows = {*TABLES, *SAME_ROWS}
    assert {table: sum(row.startswith(f"table{table}-") for row in rows) for table in (2, 3, 4, 5)} == {
        2: 3, 3: 2, 4: 3, 5: 2,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vl-mamba-2.8b", *TABLES])
def test_every_row_takes_llavas_number_of_samples_a_step(name):
    """Captions of some 14 tokens; 233 a sample beside the patches in the second stage (bench/llava_lengths.py)."""
    recipe = find(name)
    patches = recipe.model.vision.num_patches
    align, finetune = (stage.config for stage in recipe.stages)
    rows = align.batch_size * align.accumulation
    assert rows * (align.max_length // (patches + 18)) == 256
    rows = finetune.batch_size * finetune.accumulation
    assert rows * finetune.max_length * 0.985 / (patches + 233) == pytest.approx(128, rel=0.05)
    assert (
        finetune.max_length >= 2048
    )  # LLaVA's model_max_length: no sample is left out that it kept


def test_adapters_take_llavas_numbers_and_fit_a_card_of_24_gigabytes():
    recipe, base = find("vl-mamba-2.8b-lora"), find("vl-mamba-2.8b")
    assert (recipe.model, recipe.parts) == (base.model, base.parts)
    for stage, plain in zip(recipe.stages, base.stages, strict=True):
        config = stage.config
        rows = plain.config.batch_size * plain.config.accumulation
        assert config.batch_size * config.accumulation == rows
        assert (stage.data, config.max_length) == (plain.data, plain.config.max_length)
        positions = config.batch_size * config.max_length
        need = memory(recipe.model, config, positions, positions // 743, positions // 5)
        assert need.total < 22e9, (config.name, need)
    adapted = recipe.stages[1].config
    assert (adapted.lora.rank, adapted.lora.alpha, adapted.lora.dropout) == (128, 256.0, 0.05)
    assert adapted.lr == 2e-4
    assert adapted.lr * adapted.lora.connector_rate == pytest.approx(2e-5)


VISION = VisionConfig("siglip", 12, 20, 3, 2, 16, 8, 1e-6, "gelu_pytorch_tanh")
TEXT = MambaConfig(d_model=16, n_layer=2, vocab_size=40, d_state=4)
CONFIG = ModelConfig(VISION, ConnectorConfig(d_state=4), TEXT, image_token_id=2)


@pytest.fixture
def published(tmp_path):
    """A SigLIP checkpoint with a text model beside the tower, and a state-spaces checkpoint, as pickle."""
    torch.manual_seed(5)
    tower = {f"vision_model.{n}": t for n, t in VisionTower(VISION).state_dict().items()}
    tower["text_model.embeddings.token_embedding.weight"] = torch.zeros(3, 3)
    tower["logit_scale"] = torch.zeros(1)
    (tmp_path / "siglip").mkdir()
    save_file(tower, tmp_path / "siglip" / "model.safetensors")
    language = MambaLM(TEXT).state_dict()
    mamba = {n.replace("embeddings", "embedding"): t.clone() for n, t in language.items()}
    for name in ("backbone.embedding.weight", "lm_head.weight"):
        mamba[name] = mamba[name][:37].clone()
    (tmp_path / "mamba").mkdir()
    torch.save(mamba, tmp_path / "mamba" / "pytorch_model.bin")
    return PublicParts(str(tmp_path / "siglip"), str(tmp_path / "mamba")), tower, mamba


def test_public_parts_are_taken_out_of_their_checkpoints(published):
    parts, tower, mamba = published
    model = parts.model(CONFIG, seed=0)
    for name, parameter in model.model.vision_tower.named_parameters():
        assert torch.equal(parameter, tower[f"vision_model.{name}"])
    for name, parameter in model.model.language_model.named_parameters():
        saved = mamba[f"backbone.{name.replace('embeddings', 'embedding')}"]
        assert torch.equal(parameter[: len(saved)], saved)
    assert not model.model.language_model.embeddings.weight[37:].any()
    assert model.lm_head.weight is model.model.language_model.embeddings.weight
    assert len(freeze_for(model, "align")) == sum(1 for _ in model.model.connector.parameters())


def test_a_checkpoint_without_the_part_is_refused(published, tmp_path):
    parts, tower, _ = published
    mixed_up = PublicParts(parts.language, parts.language)
    with pytest.raises(ValueError, match=r"lacks model\.vision_tower\.embeddings"):
        mixed_up.model(CONFIG, seed=0)
    del tower["vision_model.encoder.layers.1.mlp.fc1.bias"]
    save_file(tower, tmp_path / "siglip" / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.layers\.1\.mlp\.fc1\.bias"):
        parts.model(CONFIG, seed=0)
    with pytest.raises(FileNotFoundError, match="no such file or directory"):
        PublicParts(str(tmp_path / "none" / "x"), parts.language).model(CONFIG, seed=0)
