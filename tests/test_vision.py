"""The vision tower: equal to transformers' SigLIP and CLIP at either feature layer."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from vlmamba.config import VisionConfig
from vlmamba.vision import VisionTower

SIZES = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3,
    "image_size": 20, "patch_size": 4,
}  # fmt: skip
LAYOUTS = {
    "siglip": (SiglipVisionConfig, SiglipVisionModel, "gelu_pytorch_tanh", 1e-6),
    "clip": (CLIPVisionConfig, CLIPVisionModel, "quick_gelu", 1e-5),
}


def both(layout: str, feature_layer: int, **changes):
    """Our tower and transformers' with equal weights, none of them at an initial zero or one."""
    config_class, model_class, act, eps = LAYOUTS[layout]
    sizes = {**SIZES, "hidden_act": act, "layer_norm_eps": eps, **changes}
    torch.manual_seed(0)
    theirs = model_class(config_class(**sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = VisionConfig(layout, feature_layer=feature_layer, **sizes)
    ours = VisionTower(config).eval()
    found = ours.load_state_dict(theirs.state_dict(), strict=False)
    above = [f"encoder.layers.{i}." for i in range(config.num_layers_used, 3)]
    assert not found.missing_keys
    assert all(key.startswith(("post_layernorm", "head", *above)) for key in found.unexpected_keys)
    return ours, theirs


@pytest.mark.parametrize("feature_layer", [-1, -2, 0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_are_transformers_hidden_states(layout, feature_layer):
    ours, theirs = both(layout, feature_layer)
    pictures = torch.randn(2, 3, 20, 20)
    with torch.no_grad():
        features = ours(pictures)
        expected = theirs(pictures, output_hidden_states=True).hidden_states[feature_layer]
    if layout == "clip":
        expected = expected[:, 1:]  # without the class token
    assert features.shape == (2, 25, 24)
    assert ((features - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_transformers(layout):
    ours, theirs = both(layout, -2)
    pictures = torch.randn(2, 3, 20, 20)
    drop = 1 if layout == "clip" else 0
    ours(pictures).square().sum().backward()
    hidden = theirs(pictures, output_hidden_states=True).hidden_states[-2]
    hidden[:, drop:].square().sum().backward()
    expected = dict(theirs.named_parameters())
    largest = max(p.grad.abs().max() for p in expected.values() if p.grad is not None)
    for name, parameter in ours.named_parameters():
        gradient = expected[name].grad
        # Softmax does not see a bias of keys, so that its gradient is rounding and nothing else.
        allowed = 1e-6 * largest if name.endswith("k_proj.bias") else 1e-4 * gradient.abs().max()
        assert (parameter.grad - gradient).abs().max() <= allowed, name


@pytest.mark.parametrize("act", ["gelu", "quick_gelu", "gelu_pytorch_tanh"])
def test_every_activation_is_transformers(act):
    ours, theirs = both("siglip", -1, hidden_act=act)
    pictures = torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        expected = theirs(pictures, output_hidden_states=True).hidden_states[-1]
        assert ((ours(pictures) - expected).abs().max() / expected.abs().max()) < 1e-5


def test_pixels_outside_the_last_whole_patch_are_ignored_as_in_transformers():
    ours, theirs = both("siglip", -2, image_size=22)
    pictures = torch.randn(1, 3, 22, 22)
    with torch.no_grad():
        expected = theirs(pictures, output_hidden_states=True).hidden_states[-2]
        assert torch.allclose(ours(pictures), expected, atol=1e-5)


def test_patches_run_row_by_row():
    tower = VisionTower(
        VisionConfig("siglip", feature_layer=0, hidden_act="gelu", layer_norm_eps=1e-6, **SIZES)
    )
    torch.nn.init.zeros_(tower.embeddings.position_embedding.weight)
    picture = torch.zeros(1, 3, 20, 20)
    picture[0, :, 4:8, 12:16] = 1  # row 1, column 3
    with torch.no_grad():
        features = tower(picture)[0]
    blank = features[0]
    changed = [i for i in range(25) if not torch.allclose(features[i], blank)]
    assert changed == [1 * 5 + 3]


def test_pictures_of_another_size_are_one_clear_line():
    tower = VisionTower(VisionConfig("siglip", hidden_act="gelu", layer_norm_eps=1e-6, **SIZES))
    with pytest.raises(
        ValueError, match=r"pixel_values are \(1, 3, 16, 20\), the tower takes \(b, 3, 20, 20\)"
    ):
        tower(torch.zeros(1, 3, 16, 20))


def test_published_towers_have_the_published_grids():
    siglip = VisionConfig(
        "siglip", 1152, 4304, 27, 16, image_size=384, patch_size=14, layer_norm_eps=1e-6,
        hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    clip = VisionConfig(
        "clip",
        1024,
        4096,
        24,
        16,
        image_size=336,
        patch_size=14,
        layer_norm_eps=1e-5,
        hidden_act="quick_gelu",
    )
    assert (siglip.grid, siglip.num_patches, siglip.num_layers_used) == ((27, 27), 729, 26)
    assert (clip.grid, clip.num_patches, clip.num_layers_used) == ((24, 24), 576, 23)


@pytest.mark.parametrize("layout", ["clip", "siglip"])
def test_features_stay_contiguous_through_the_tower(layout):
    config = VisionConfig(layout, 16, 32, 2, 2, 16, 8, 1e-6, "gelu_pytorch_tanh")
    tower = VisionTower(config)
    embedded = tower.embeddings(torch.randn(2, 3, 16, 16))
    assert embedded.is_contiguous()
    assert tower.encoder(embedded).is_contiguous()
