"""Other parts: any causal language model and any vision model of transformers in the places of our own."""

import pytest
import torch
from small import IMAGE, MAMBA, PAD, loud, padded, row, small_model
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from vlmamba.integrations.transformers import VLMambaConfig, VLMambaForConditionalGeneration
from vlmamba.integrations.transformers.tower import Features

# transformers says that its hybrids run without their optional kernels, and that names have moved.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

WIDTHS = {
    "vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False,
}  # fmt: skip
LANGUAGE_MODELS = {
    "llama": {"num_key_value_heads": 2},
    "granite": {"num_key_value_heads": 2, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "jamba": {  # Mamba, attention and experts
        "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2,
        "expert_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 2,
    },
    "zamba2": {  # Mamba-2 and shared attention
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "mamba_d_state": 4,
        "n_mamba_heads": 6, "mamba_headdim": 8, "mamba_ngroups": 1, "num_mem_blocks": 1, "chunk_size": 8,
        "use_shared_attention_adapter": False, "attention_hidden_size": 48,
    },
    "mamba2": {"num_heads": 6, "head_dim": 8, "state_size": 4, "n_groups": 1, "expand": 2, "chunk_size": 8},
}  # fmt: skip
VIT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 12,
    "patch_size": 4,
}  # fmt: skip
TOWERS = {
    "dinov2": ({**VIT, "mlp_ratio": 2}, Features(16, (3, 3))),
    "dinov3_vit": ({**VIT, "num_register_tokens": 3}, Features(16, (3, 3))),
    "siglip_vision_model": ({**VIT, "hidden_act": "relu"}, Features(16, (3, 3))),
    "clip_vision_model": ({**VIT, "hidden_act": "relu"}, Features(16, (3, 3))),
    "swin": (
        {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 3, "image_size": 24, "patch_size": 4},
        Features(16, (3, 3)),
    ),
    "convnext": ({"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2, "image_size": 24}, Features(8, (6, 6))),
}  # fmt: skip
SETTINGS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}


def build(text: dict, vision: dict) -> VLMambaForConditionalGeneration:
    torch.manual_seed(0)
    config = VLMambaConfig(
        vision_config=dict(vision),
        text_config=dict(text),
        connector_config={"d_state": 3},
        image_token_id=IMAGE,
        tie_word_embeddings=False,
    )
    return loud(VLMambaForConditionalGeneration(config)).eval()


def batch(model: VLMambaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """A row with two pictures, one with none, and one with one."""
    picture = [IMAGE] * model.model.features.num_patches
    size = model.config.vision_config.image_size
    return {
        **padded(row(5, *picture, 6, *picture, 7), row(8, 9), row(*picture, 10)),
        "pixel_values": torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1)),
    }


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
class TestLanguageModels:
    @pytest.fixture
    def model(self, name):
        vision = {"model_type": "siglip_vision_model", **VIT}
        return build({"model_type": name, **WIDTHS, **LANGUAGE_MODELS[name]}, vision)

    def test_without_a_picture_it_is_that_language_model(self, model):
        ids = row(5, 6, 7, 8)
        with torch.no_grad():
            expected = model.model.language_model(ids).logits
            assert torch.allclose(model(ids).logits, expected, atol=1e-5)

    def test_its_cache_gives_what_no_cache_gives_in_a_batch_and_with_beams(self, model):
        inputs = batch(model)
        for beams in (1, 2):
            settings = {**SETTINGS, "num_beams": beams}
            cached = model.generate(**inputs, **settings)
            assert torch.equal(cached, model.generate(**inputs, **settings, use_cache=False))
        alone = model.generate(row(8, 9), **SETTINGS)
        assert torch.equal(model.generate(**inputs, **SETTINGS)[1, -5:], alone[0, -5:])

    def test_a_picture_is_seen(self, model):
        inputs = batch(model)
        with torch.no_grad():
            first = model(**inputs).logits
            inputs["pixel_values"] = -inputs["pixel_values"]
            second = model(**inputs).logits
        assert not torch.allclose(first[0, -1], second[0, -1], atol=1e-3)
        assert torch.allclose(first[1, -1], second[1, -1], atol=1e-5)

    def test_it_is_saved_loaded_and_trained(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
        expected = model.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        for key, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, expected[key]), key
        inputs = batch(loaded)
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] <= IMAGE, -100)
        loaded.train()(**inputs, labels=labels).loss.backward()
        for part in (
            loaded.model.connector,
            loaded.model.vision_tower,
            loaded.model.language_model,
        ):
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_a_pretrained_language_model_is_put_in_by_assignment(tmp_path):
    text = {"model_type": "granite", **WIDTHS, **LANGUAGE_MODELS["granite"]}
    model = build(text, {"model_type": "siglip_vision_model", **VIT})
    loud(model.model.language_model).save_pretrained(tmp_path / "language")
    other = build(text, {"model_type": "siglip_vision_model", **VIT})
    other.model.language_model = AutoModelForCausalLM.from_pretrained(tmp_path / "language")
    other.save_pretrained(tmp_path / "whole")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole")
    with torch.no_grad():
        ids = row(5, 6, 7)
        assert torch.allclose(loaded(ids).logits, model.model.language_model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("name", TOWERS)
class TestTowers:
    @pytest.fixture
    def model(self, name):
        return build({**MAMBA, "vocab_size": 60}, {"model_type": name, **TOWERS[name][0]})

    def test_its_patches_reach_the_connector(self, model, name):
        assert model.model.features == TOWERS[name][1]
        pictures = batch(model)["pixel_values"]
        seen = []
        model.model.connector.register_forward_pre_hook(lambda _, args: seen.append(args))
        with torch.no_grad():
            features = model.get_image_features(pictures)
            states = model.model.vision_tower(pictures, output_hidden_states=True).hidden_states[-2]
        patches, grid = seen[0]
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        assert torch.equal(patches, states[:, -grid[0] * grid[1] :])
        assert features.shape == (3, grid[0] * grid[1], 20)

    def test_it_answers_and_is_saved_and_loaded(self, model, tmp_path):
        inputs = batch(model)
        expected = model.generate(**inputs, **SETTINGS)
        assert torch.equal(expected, model.generate(**inputs, **SETTINGS, use_cache=False))
        model.save_pretrained(tmp_path)
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
        assert torch.equal(loaded.generate(**inputs, **SETTINGS), expected)


def test_a_layer_that_a_tower_does_not_have_is_one_clear_line():
    config = VLMambaConfig(
        vision_config={"model_type": "dinov2", **VIT},
        text_config=dict(MAMBA),
        vision_feature_layer=9,
    )
    with pytest.raises(
        ValueError, match="vision_feature_layer 9 does not exist: dinov2 has 4 hidden states"
    ):
        VLMambaForConditionalGeneration(config)


def test_own_parts_are_never_built_by_transformers(monkeypatch):
    for auto in (AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(auto, "from_config", None)
    assert small_model()(row(5, 6)).logits.isfinite().all()
