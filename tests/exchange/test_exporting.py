"""What is exported is read back by those it is for, bit for bit where the type allows."""

import json
from pathlib import Path

import gguf
import published
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers

from vlmamba.checkpoints import load_model
from vlmamba.config import MambaConfig
from vlmamba.exchange.exporting import export_model
from vlmamba.exchange.importing import import_model
from vlmamba.weight_files import CheckpointError

IDS = torch.tensor([[5, 250, 17, 17, 3, 99]])


@pytest.fixture(params=["clip", "siglip"])
def whole(tmp_path, request) -> str:
    """A whole model, imported."""
    published.state_spaces(tmp_path / "mamba")
    published.tower(tmp_path / "tower", request.param)
    tokens = str(published.save_tokenizer(tmp_path / "tokens"))
    output = tmp_path / "whole"
    import_model(str(tmp_path / "mamba"), output, vision=str(tmp_path / "tower"), tokenizer=tokens)
    return str(output)


@pytest.fixture
def mamba(tmp_path) -> Path:
    """A language model alone, imported."""
    published.state_spaces(tmp_path / "source")
    tokens = str(published.save_tokenizer(tmp_path / "tokens"))
    import_model(str(tmp_path / "source"), tmp_path / "mamba", tokenizer=tokens)
    return tmp_path / "mamba"


def test_a_language_model_for_transformers(tmp_path, whole):
    export_model(whole, tmp_path / "out", "transformers")
    model, info = transformers.MambaForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ours, processor = load_model(whole)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, ours(IDS).logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "a red cat"
    assert tokenizer(text)["input_ids"] == processor.tokenizer.encode(text).ids


def test_a_tower_for_transformers(tmp_path, whole):
    report = export_model(whole, tmp_path / "out", "transformers", "vision")
    ours, processor = load_model(whole)
    clip = ours.config.vision.layout == "clip"
    kind = transformers.CLIPVisionModel if clip else transformers.SiglipVisionModel
    model, info = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(pixels, output_hidden_states=True).hidden_states[-1][:, -4:]
        torch.testing.assert_close(ours.model.vision_tower(pixels), expected)
    assert "hidden_states[-1]" in report.as_text()
    pictures = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert tuple(pictures.image_mean) == pytest.approx(processor.image.mean)
    again = import_model(
        str(tmp_path / "mamba"), tmp_path / "again", vision=str(tmp_path / "out"),
        tokenizer=str(tmp_path / "tokens"),
    )  # fmt: skip
    assert any("above the feature layer" in unused.reason for unused in again.plan.unused)


@pytest.mark.parametrize("pickled", [True, False])
def test_state_spaces_gets_back_what_it_published(tmp_path, whole, pickled):
    output = tmp_path / "out"
    export_model(whole, output, "state-spaces", pickled=pickled)
    original = torch.load(tmp_path / "mamba" / "pytorch_model.bin", weights_only=True)
    if pickled:
        tensors = torch.load(output / "pytorch_model.bin", weights_only=True)
        head, table = tensors["lm_head.weight"], tensors["backbone.embedding.weight"]
        assert head.data_ptr() == table.data_ptr()  # stored once
    else:
        tensors = load_file(output / "model.safetensors")
    assert tensors.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in tensors.items())
    settings = json.loads((output / "config.json").read_text())
    before = json.loads((tmp_path / "mamba" / "config.json").read_text())
    assert settings == before | {"vocab_size": 304}  # the table's rows
    assert len(settings) == 8


def test_every_language_layout_comes_back_equal(tmp_path, mamba):
    tensors = published.language_tensors()
    source = mamba
    for step in ("state-spaces", "transformers", "state-spaces", "transformers"):
        output = tmp_path / f"{step}-of-{source.name}"
        export_model(str(source), output, step, tokenizer=str(tmp_path / "tokens"))
        source = output
    written = load_file(source / "model.safetensors")
    assert written.keys() == tensors.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.items())


def test_what_state_spaces_cannot_say_is_refused(tmp_path, mamba):
    config = json.loads((mamba / "config.json").read_text()) | {"layer_norm_epsilon": 1e-6}
    (mamba / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="epsilon 1e-5 only, this model's is 1e-06"):
        export_model(str(mamba), tmp_path / "out", "state-spaces")
    assert not (tmp_path / "out").exists()


_NAMES = {
    "token_embd.weight": "backbone.embeddings.weight",
    "output_norm.weight": "backbone.norm_f.weight",
    "attn_norm.weight": "norm.weight",
    "ssm_in.weight": "mixer.in_proj.weight",
    "ssm_conv1d.weight": "mixer.conv1d.weight",
    "ssm_conv1d.bias": "mixer.conv1d.bias",
    "ssm_x.weight": "mixer.x_proj.weight",
    "ssm_dt.weight": "mixer.dt_proj.weight",
    "ssm_dt.bias": "mixer.dt_proj.bias",
    "ssm_a": "mixer.A_log",
    "ssm_d": "mixer.D",
    "ssm_out.weight": "mixer.out_proj.weight",
}


def original_name(name: str) -> str:
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        return f"backbone.layers.{layer}.{_NAMES[rest]}"
    return _NAMES[name]


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_gguf_holds_what_llama_cpp_expects(tmp_path, mamba, dtype):
    """Names and types as llama.cpp's own converter writes them; A itself, and a flat convolution."""
    file = tmp_path / "deep" / "model.gguf"
    export_model(str(mamba), file, "gguf", dtype=dtype)
    reader = gguf.GGUFReader(file)
    tensors = published.language_tensors()
    assert len(reader.tensors) == len(tensors) - 1  # the head is the table
    for found in reader.tensors:
        expected = tensors[original_name(found.name)]
        if found.name.endswith("ssm_a"):
            expected = -torch.exp(expected)
        if found.name.endswith("ssm_conv1d.weight"):
            expected = expected.squeeze(1)
        narrow = (
            found.name.endswith(".weight") and expected.ndim == 2 and "conv1d" not in found.name
        )
        kind = dtype if narrow and dtype else torch.float32
        names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        assert found.tensor_type.name == names[kind], found.name
        data = torch.from_numpy(found.data.copy())
        data = data.view(torch.bfloat16) if kind == torch.bfloat16 else data
        assert torch.equal(data, expected.to(kind)), found.name
        assert list(found.shape) == list(reversed(expected.shape))


def test_gguf_says_how_the_model_is_built_and_which_words_it_has(tmp_path, mamba):
    file = tmp_path / "model.gguf"
    export_model(str(mamba), file, "gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    assert fields["general.architecture"] == "mamba"
    expected = {
        "embedding_length": 16, "block_count": 2, "ssm.conv_kernel": 4, "ssm.inner_size": 32,
        "ssm.state_size": 4, "ssm.time_step_rank": 1, "ssm.dt_b_c_rms": False,
        "feed_forward_length": 0, "attention.head_count": 0,
    }  # fmt: skip
    assert {name: fields[f"mamba.{name}"] for name in expected} == expected
    assert fields["mamba.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5)
    tokenizer = Tokenizer.from_file(str(mamba / "tokenizer.json"))
    words = fields["tokenizer.ggml.tokens"]
    assert words[:296] == [tokenizer.id_to_token(number) for number in range(296)]
    assert words[296:] == [f"[PAD{number}]" for number in range(296, 304)]
    control, normal, unused = (int(gguf.TokenType[n]) for n in ("CONTROL", "NORMAL", "UNUSED"))
    assert fields["tokenizer.ggml.token_type"] == [control] * 3 + [normal] * 293 + [unused] * 8
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]
    assert fields["tokenizer.ggml.pre"] == "mpt"
    assert fields["tokenizer.ggml.padding_token_id"] == 1


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)], "smollm"),
        ([pre_tokenizers.Whitespace()], None),
        ([pre_tokenizers.Digits(False), pre_tokenizers.ByteLevel(False)], None),
        ([pre_tokenizers.ByteLevel(True)], None),
    ],
)
def test_how_words_are_split_is_told_or_refused(tmp_path, mamba, steps, name):
    tokenizer = Tokenizer.from_file(str(mamba / "tokenizer.json"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.save(str(mamba / "tokenizer.json"))
    file = tmp_path / "model.gguf"
    if name is None:
        with pytest.raises(CheckpointError, match=r"which llama\.cpp has no name for"):
            export_model(str(mamba), file, "gguf")
        assert not list(tmp_path.glob("*model.gguf*"))
    else:
        export_model(str(mamba), file, "gguf")
        assert gguf.GGUFReader(file).fields["tokenizer.ggml.pre"].contents() == name


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MambaConfig(16, 2, 304, 4, expand=3), "expand 2 only, this one has 3"),
        (MambaConfig(16, 2, 304, 4, conv_bias=False), "with one in its convolution only"),
        (MambaConfig(16, 2, 304, 4, bias=True), "without biases in its projections"),
    ],
)
def test_models_that_llama_cpp_does_not_run(tmp_path, config, reason):
    settings = {"expand": config.expand, "bias": config.bias, "conv_bias": config.conv_bias}
    published.state_spaces(tmp_path / "mamba", config)
    file = tmp_path / "mamba" / "config.json"
    data = json.loads(file.read_text())
    data["ssm_cfg"] |= settings
    file.write_text(json.dumps(data))
    tokens = str(published.save_tokenizer(tmp_path / "tokens"))
    with pytest.raises(CheckpointError, match=reason):
        export_model(str(tmp_path / "mamba"), tmp_path / "x.gguf", "gguf", tokenizer=tokens)
    assert not (tmp_path / "x.gguf").exists()


def test_parts_and_places_that_cannot_be_exported(tmp_path, mamba):
    with pytest.raises(CheckpointError, match="holds no vision tower"):
        export_model(str(mamba), tmp_path / "out", "transformers", "vision")
    with pytest.raises(CheckpointError, match="gguf has no layout for a vision tower"):
        export_model(str(mamba), tmp_path / "out", "gguf", "vision")
    published.tower(tmp_path / "siglip", "siglip")
    with pytest.raises(CheckpointError, match="holds no language model"):
        export_model(str(tmp_path / "siglip"), tmp_path / "out", "gguf")
    (tmp_path / "x.gguf").touch()
    with pytest.raises(FileExistsError, match="exists already"):
        export_model(str(mamba), tmp_path / "x.gguf", "gguf")
    assert not (tmp_path / "out").exists()
