"""Configurations: whole ones come back equal from JSON, and every wrong value is one clear line."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig

SIGLIP = VisionConfig("siglip", 1152, 4304, 27, 16, 384, 14, 1e-6, "gelu_pytorch_tanh")
CLIP = VisionConfig("clip", 1024, 4096, 24, 16, 336, 14, 1e-5, "quick_gelu")
SLIMPJ = MambaConfig(d_model=2560, n_layer=64)


def paper(**changes: Any) -> ModelConfig:
    return replace(ModelConfig(SIGLIP, ConnectorConfig(), SLIMPJ, image_token_id=50277), **changes)


def test_the_papers_model():
    config = paper()
    assert (SIGLIP.grid, SIGLIP.num_patches) == ((27, 27), 729)
    assert (CLIP.grid, CLIP.num_patches) == ((24, 24), 576)
    assert config.text.d_inner == 5120
    assert (config.connector.kind, config.connector.scan) == ("vss-l2", "bsm")
    assert (config.eos_token_id, config.pad_token_id) == (0, 1)


@pytest.mark.parametrize(
    ("feature_layer", "used"), [(-2, 26), (-1, 27), (0, 0), (5, 5), (27, 27), (-28, 0)]
)
def test_layers_below_the_feature_layer(feature_layer, used):
    assert replace(SIGLIP, feature_layer=feature_layer).num_layers_used == used


@pytest.mark.parametrize(
    "config",
    [
        paper(),
        paper(vision=CLIP),
        paper(vision=replace(SIGLIP, hidden_size=1120, feature_layer=-1, num_channels=1)),
        paper(text=replace(SLIMPJ, tie_embeddings=False, bias=True, conv_bias=False, dt_rank=7)),
        paper(text=replace(SLIMPJ, d_state=8, d_conv=3, expand=1, norm_epsilon=1e-6)),
        paper(
            connector=ConnectorConfig("mlp", "csm", "projections", "sum", "layernorm", 8, 3, 1, 5)
        ),
        paper(image_token_id=2, eos_token_id=3, pad_token_id=4),
    ],
)
def test_json_and_back(config):
    data = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(data) == config


def test_json_speaks_transformers_names():
    data = paper(text=replace(SLIMPJ, dt_rank=160)).to_dict()
    assert data["model_type"] == "vlmamba"
    assert data["architectures"] == ["VLMambaForConditionalGeneration"]
    assert data["vision_feature_layer"] == -2
    assert data["vision_config"]["model_type"] == "siglip_vision_model"
    text = data["text_config"]
    assert text["model_type"] == "mamba"
    assert text["hidden_size"] == 2560
    assert text["num_hidden_layers"] == 64
    assert text["state_size"] == 16
    assert text["conv_kernel"] == 4
    assert text["time_step_rank"] == 160
    assert text["intermediate_size"] == 5120
    assert paper().to_dict()["text_config"]["time_step_rank"] == "auto"


def test_transformers_own_configurations_are_read():
    """What transformers writes for the parts, defaults left out, gives the same model."""
    transformers = pytest.importorskip("transformers")
    data = paper().to_dict()
    for theirs, ours in (
        (transformers.CLIPVisionConfig(), "clip"),
        (transformers.SiglipVisionConfig(), "siglip"),
    ):
        diff, whole = theirs.to_diff_dict(), theirs.to_dict()
        sparse = ModelConfig.from_dict(data | {"vision_config": diff}).vision
        assert sparse.layout == ours
        assert sparse == ModelConfig.from_dict(data | {"vision_config": whole}).vision
    text = transformers.MambaConfig(hidden_size=64, num_hidden_layers=2, use_bias=False)
    read = ModelConfig.from_dict(data | {"text_config": text.to_dict()}).text
    assert (read.d_model, read.n_layer, read.dt_rank, read.vocab_size) == (64, 2, 4, 50280)


def test_configurations_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        SIGLIP.image_size = 224  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "dino"}, "vision layout 'dino' is unknown: use one of clip, siglip"),
        (
            {"hidden_act": "relu"},
            "hidden_act 'relu' is unknown: use one of quick_gelu, gelu, gelu_pytorch_tanh",
        ),
        ({"hidden_size": 1150}, "hidden_size 1150 is not a multiple of num_attention_heads 16"),
        ({"image_size": 13}, "image_size 13 is smaller than patch_size 14"),
        ({"patch_size": 0}, "patch_size must be a positive integer, got 0"),
        ({"num_hidden_layers": 2.5}, "num_hidden_layers must be a positive integer, got 2.5"),
        ({"num_channels": True}, "num_channels must be a positive integer, got True"),
        ({"feature_layer": 28}, "vision_feature_layer 28 does not exist in 27 layers"),
        ({"feature_layer": -29}, "vision_feature_layer -29 does not exist"),
    ],
)
def test_vision_values(changes, reason):
    with pytest.raises(ValueError, match=reason):
        replace(SIGLIP, **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"kind": "magic"},
            "connector kind 'magic' is unknown: use one of mlp, mlp-wide, vss-mlp, vss-l2",
        ),
        ({"scan": "zigzag"}, "connector scan 'zigzag' is unknown: use one of bsm, csm"),
        ({"share": "all"}, "connector share 'all' is unknown: use one of layer, projections"),
        ({"merge": "max"}, "connector merge 'max' is unknown: use one of mean, sum"),
        (
            {"norm": "batchnorm"},
            "connector norm 'batchnorm' is unknown: use one of rmsnorm, layernorm",
        ),
        ({"d_state": -1}, "d_state must be a positive integer, got -1"),
        ({"d_conv": "4"}, "d_conv must be a positive integer, got '4'"),
    ],
)
def test_connector_values(changes, reason):
    with pytest.raises(ValueError, match=reason):
        ConnectorConfig(**changes)


@pytest.mark.parametrize(
    "name", ["d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand"]
)
@pytest.mark.parametrize("value", [0, -3, 1.0, "big", None])
def test_text_values(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got"):
        MambaConfig(**{name: value})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pad_token_id": 0}, "eos_token_id and pad_token_id are both 0: they must differ"),
        ({"image_token_id": 50280}, "image_token_id 50280 is outside the vocabulary of 50280"),
        ({"eos_token_id": -1}, "eos_token_id -1 is outside the vocabulary"),
    ],
)
def test_tokens(changes, reason):
    with pytest.raises(ValueError, match=reason):
        paper(**changes)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(model_type="llava"), "model_type 'llava', expected 'vlmamba'"),
        (lambda c: c.pop("model_type"), "model_type None"),
        (lambda c: c.pop("vision_config"), "lacks the key 'vision_config'"),
        (lambda c: c.pop("text_config"), "lacks the key 'text_config'"),
        (lambda c: c.pop("image_token_id"), "lacks the key 'image_token_id'"),
        (lambda c: c["connector_config"].update(depth=3), r"unknown keys \['depth'\]: known are"),
        (
            lambda c: c["vision_config"].update(model_type="dinov2"),
            "vision_config model_type 'dinov2' is unknown",
        ),
        (
            lambda c: c["text_config"].update(model_type="mamba2"),
            "text_config model_type 'mamba2' is unknown",
        ),
        (
            lambda c: c["text_config"].update(hidden_act="relu"),
            "hidden_act 'relu' is not supported",
        ),
    ],
)
def test_json_that_cannot_be_read(change, reason):
    data = json.loads(json.dumps(paper().to_dict()))
    change(data)
    with pytest.raises(ValueError, match=reason):
        ModelConfig.from_dict(data)
