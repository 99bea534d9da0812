"""Published parts become a model that computes what transformers computes from the same files."""

import json
from pathlib import Path

import published
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny import tiny_config, tiny_processor

from vlmamba.checkpoints import load_model, save_model
from vlmamba.config import ConnectorConfig, ModelConfig
from vlmamba.exchange.importing import import_model
from vlmamba.exchange.plan import Placed
from vlmamba.model import VLMamba
from vlmamba.weight_files import CheckpointError

IDS = torch.tensor([[5, 250, 17, 17, 3, 99]])


@pytest.fixture
def tokens(tmp_path) -> str:
    return str(published.save_tokenizer(tmp_path / "tokens"))


@pytest.fixture
def mamba(tmp_path) -> str:
    published.state_spaces(tmp_path / "mamba")
    return str(tmp_path / "mamba")


@pytest.fixture
def siglip(tmp_path) -> str:
    published.tower(tmp_path / "siglip", "siglip")
    return str(tmp_path / "siglip")


def entries(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


LANGUAGES = {
    "state-spaces": lambda directory: published.state_spaces(directory),
    "state-spaces, safetensors": lambda d: published.state_spaces(d, pickled=False),
    "transformers": lambda directory: published.transformers_mamba(directory),
    "transformers, in shards": lambda d: published.transformers_mamba(d, max_shard="20KB"),
}


@pytest.mark.parametrize("layout", LANGUAGES)
def test_a_language_model_alone_is_one_that_transformers_loads(tmp_path, tokens, layout):
    LANGUAGES[layout](tmp_path / "source")
    tensors = published.language_tensors()
    output = tmp_path / "out"
    report = import_model(str(tmp_path / "source"), output, tokenizer=tokens, check=True)
    written = load_file(output / "model.safetensors")
    assert written.keys() == tensors.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.items())
    model, info = transformers.MambaForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert transformers.AutoTokenizer.from_pretrained(output).encode("a cat")
    assert model.config.vocab_size == 304
    [check] = report.checks
    assert check["difference"] < 1e-5 < check["largest"]
    assert not report.plan.unused


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize(("whole", "pickled"), [(True, False), (True, True), (False, False)])
def test_a_whole_model_out_of_two_checkpoints(tmp_path, tokens, mamba, kind, whole, pickled):
    source = tmp_path / kind
    published.tower(source, kind, whole, pickled)
    output = tmp_path / "out"
    report = import_model(mamba, output, vision=str(source), tokenizer=tokens, check=True)
    model, processor = load_model(output)
    name = "CLIPVisionModel" if kind == "clip" else "SiglipVisionModel"
    theirs = getattr(transformers, name).from_pretrained(source)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states[-2]
        torch.testing.assert_close(model.model.vision_tower(pixels), expected[:, -4:])
        config = transformers.MambaConfig(
            vocab_size=304, hidden_size=16, state_size=4, num_hidden_layers=2
        )
        language = transformers.MambaForCausalLM(config).eval()
        language.load_state_dict(published.language_tensors())
        torch.testing.assert_close(model(IDS).logits, language(IDS).logits)
    assert processor.num_patches == 4
    reasons = {unused.reason for unused in report.plan.unused}
    assert {"compares pictures with texts", "the text tower"} <= reasons or not whole
    assert "above the feature layer, which no patch feature passes" in reasons
    assert not any("unknown" in reason for reason in reasons)
    assert json.loads((output / "import.json").read_text()) == report.as_json()


def test_a_connector_is_drawn_from_the_seed_alone(tmp_path, tokens, mamba, siglip):
    fresh = ConnectorConfig(kind="vss-mlp", scan="csm")
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        torch.rand(3)
        report = import_model(
            mamba, tmp_path / name, vision=siglip, tokenizer=tokens, fresh=fresh, seed=seed
        )
        assert f"random, drawn from seed {seed}" in report.as_text()
    a, b, c = (load_model(tmp_path / name)[0].model.connector.state_dict() for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)
    assert load_model(tmp_path / "a")[0].config.connector == fresh


def test_connectors_of_llava(tmp_path, tokens, mamba, siglip):
    tensors = published.projector()
    torch.save(tensors, tmp_path / "mm_projector.bin")
    newer = {
        f"model.multi_modal_projector.linear_{1 + (number > 0)}.{kind}": tensors[
            f"model.mm_projector.{number}.{kind}"
        ]
        for number in (0, 2)
        for kind in ("weight", "bias")
    }
    torch.save(newer, tmp_path / "newer.bin")
    for file in ("mm_projector.bin", "newer.bin"):
        output = tmp_path / f"out-{file}"
        import_model(mamba, output, vision=siglip, connector=str(tmp_path / file), tokenizer=tokens)
        mlp = load_model(output)[0].model.connector.mlp
        for layer, number in ((mlp.linear_1, 0), (mlp.linear_2, 2)):
            assert torch.equal(layer.weight, tensors[f"model.mm_projector.{number}.weight"])
            assert torch.equal(layer.bias, tensors[f"model.mm_projector.{number}.bias"])


def test_parts_of_a_whole_model_are_exchanged(tmp_path, tokens, mamba, siglip):
    import_model(mamba, tmp_path / "base", vision=siglip, tokenizer=tokens)
    published.tower(tmp_path / "clip", "clip")
    torch.save(published.projector(), tmp_path / "mm_projector.bin")
    base, other = str(tmp_path / "base"), tmp_path / "other"
    import_model(base, tmp_path / "same")
    for name, tensor in load_file(tmp_path / "base" / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "same" / "model.safetensors")[name], tensor)
    import_model(
        base, other, vision=str(tmp_path / "clip"), connector=str(tmp_path / "mm_projector.bin")
    )
    model, processor = load_model(other)
    assert model.config.vision.layout == "clip"
    assert model.config.connector.kind == "mlp"
    assert processor.image.mean[0] == pytest.approx(0.4815, abs=1e-3)
    import_model(mamba, tmp_path / "third", vision=siglip, connector=base, tokenizer=tokens)
    connector = load_model(tmp_path / "third")[0].model.connector.state_dict()
    for name, tensor in load_model(base)[0].model.connector.state_dict().items():
        assert torch.equal(connector[name], tensor)


def test_cobra_gives_its_language_model_and_says_what_it_cannot(tmp_path, tokens, siglip):
    published.cobra(tmp_path / "cobra")
    report = import_model(
        str(tmp_path / "cobra"), tmp_path / "out", vision=siglip, tokenizer=tokens, check=True
    )
    text = report.as_text()
    assert "Cobra's fused projector: no connector here reads DINOv2 beside SigLIP" in text
    assert "language model against transformers: not made" in text
    language = load_model(tmp_path / "out")[0].model.language_model.state_dict()
    for name, tensor in published.language_tensors().items():
        assert name == "lm_head.weight" or torch.equal(language[name[9:]], tensor)


def test_cobra_with_one_tower_gives_its_connector_too(tmp_path, tokens, siglip):
    saved = published.cobra(tmp_path / "cobra", layers=2)
    file = str(tmp_path / "cobra" / "checkpoints" / "latest-checkpoint.pt")
    import_model(file, tmp_path / "out", vision=siglip, tokenizer=tokens)
    linear = load_model(tmp_path / "out")[0].model.connector.mlp.linear_2
    assert torch.equal(linear.weight, saved["projector"]["projector.2.weight"])


def test_a_file_is_read_with_the_configuration_beside_it(tmp_path, tokens, mamba):
    import_model(f"{mamba}/pytorch_model.bin", tmp_path / "out", tokenizer=tokens)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (settings["vocab_size"], settings["state_size"]) == (304, 4)
    (Path(mamba) / "config.json").unlink()
    import_model(f"{mamba}/pytorch_model.bin", tmp_path / "bare", tokenizer=tokens)
    assert json.loads((tmp_path / "bare" / "config.json").read_text()) == settings


def test_squeezed_convolutions_and_short_tables_are_told(tmp_path, tokens):
    source = tmp_path / "source"
    tensors = published.state_spaces(source)
    for name in [name for name in tensors if name.endswith("conv1d.weight")]:
        tensors[name] = tensors[name].squeeze(1)
    for name in ("backbone.embedding.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:301].clone()
    torch.save(tensors, source / "pytorch_model.bin")
    report = import_model(str(source), tmp_path / "out", tokenizer=tokens)
    fates = {placed.name: placed.fate for placed in report.plan.placed.values()}
    assert fates["model.language_model.layers.0.mixer.conv1d.weight"] == "reshaped"
    assert fates["model.language_model.embeddings.weight"] == "padded"
    assert "reshaped: 2, such as backbone.layers.0.mixer.conv1d.weight" in report.as_text()
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written["backbone.layers.1.mixer.conv1d.weight"].shape == (32, 1, 4)
    assert not written["backbone.embeddings.weight"][301:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_and_shards(tmp_path, tokens, mamba, siglip, dtype):
    import_model(
        mamba, tmp_path / "out", vision=siglip, tokenizer=tokens, dtype=dtype, check=True,
        max_shard=20_000,
    )  # fmt: skip
    shards = list((tmp_path / "out").glob("model-*-of-*.safetensors"))
    assert len(shards) > 1
    assert {t.dtype for shard in shards for t in load_file(shard).values()} == {dtype}
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["dtype"] == str(dtype).removeprefix("torch.")
    language = load_model(tmp_path / "out")[0].model.language_model
    table = published.language_tensors()["backbone.embeddings.weight"]
    assert torch.equal(language.embeddings.weight, table.to(dtype).float())


def test_a_tower_brings_how_its_pictures_were_normalised(tmp_path, tokens, mamba, siglip):
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}
    (Path(siglip) / "preprocessor_config.json").write_text(json.dumps(settings))
    import_model(mamba, tmp_path / "out", vision=siglip, tokenizer=tokens)
    image = load_model(tmp_path / "out")[1].image
    assert (image.mean, image.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (image.resample, image.aspect, image.image_size) == ("bilinear", "pad", 16)


def test_the_check_finds_a_wrong_tensor_and_keeps_nothing(tmp_path, tokens, mamba, monkeypatch):
    true = Placed.read

    def wrong(self):
        tensor = true(self)
        return -tensor if self.name.endswith("1.mixer.D") else tensor

    monkeypatch.setattr(Placed, "read", wrong)
    before = entries(tmp_path)
    with pytest.raises(CheckpointError, match="language model differs from transformers'"):
        import_model(mamba, tmp_path / "out", tokenizer=tokens, check=True)
    assert entries(tmp_path) == before
    import_model(mamba, tmp_path / "out", tokenizer=tokens)


def test_a_connector_of_ours_in_a_file_is_what_the_options_say(tmp_path, tokens, mamba, siglip):
    import_model(mamba, tmp_path / "base", vision=siglip, tokenizer=tokens)
    model, _ = load_model(tmp_path / "base")
    scanned = ConnectorConfig(scan="csm")
    torch.save(
        {f"model.connector.{n}": t for n, t in model.model.connector.state_dict().items()},
        tmp_path / "connector.pt",
    )
    import_model(
        mamba, tmp_path / "out", vision=siglip, tokenizer=tokens, fresh=scanned,
        connector=str(tmp_path / "connector.pt"),
    )  # fmt: skip
    assert load_model(tmp_path / "out")[0].config.connector == scanned


def test_an_untied_head_is_taken(tmp_path, tokens):
    source = tmp_path / "source"
    tensors = published.state_spaces(source)
    tensors["lm_head.weight"] = torch.randn(304, 16)
    torch.save(tensors, source / "pytorch_model.bin")
    config = json.loads((source / "config.json").read_text()) | {"tie_embeddings": False}
    (source / "config.json").write_text(json.dumps(config))
    import_model(str(source), tmp_path / "out", tokenizer=tokens, check=True)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], tensors["lm_head.weight"])


def test_a_model_with_grown_tokens_still_loads(tmp_path, siglip):
    """The processor of a whole model is taken along with its own tokens."""
    vision = tiny_processor()
    model = VLMamba(
        ModelConfig(tiny_config().vision, ConnectorConfig(), published.TEXT, image_token_id=2)
    )
    save_model(tmp_path / "base", model, vision)
    import_model(str(tmp_path / "base"), tmp_path / "out", vision=siglip)
    loaded, processor = load_model(tmp_path / "out")
    assert (loaded.config.image_token_id, processor.image_token_id) == (2, 2)
    assert loaded.config.vision.num_hidden_layers == 3
