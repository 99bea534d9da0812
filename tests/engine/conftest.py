"""A random model so small that a test can afford many answers."""

import pytest
import torch

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.model import VLMamba


def random_model(vocab_size: int = 97, dtype: torch.dtype = torch.float64) -> VLMamba:
    """Random weights with a long memory: what was read first still changes the next token."""
    torch.manual_seed(3)
    vision = VisionConfig(
        layout="siglip", hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    text = MambaConfig(
        d_model=20, n_layer=3, vocab_size=vocab_size, d_state=5, tie_embeddings=False
    )
    config = ModelConfig(vision, ConnectorConfig(d_state=3), text, image_token_id=2)
    model = VLMamba(config).to(dtype).eval().requires_grad_(False)
    model.lm_head.weight.normal_()
    model.model.connector.linear_2.weight.mul_(20)
    model.model.language_model.embeddings.weight.normal_(std=0.3)
    for layer in model.model.language_model.layers:
        layer.mixer.A_log.fill_(-3)
        layer.mixer.D.zero_()
        layer.mixer.dt_proj.bias.zero_()
        layer.mixer.conv1d.weight.mul_(4)
        layer.mixer.x_proj.weight.mul_(5)
        layer.mixer.out_proj.weight.mul_(4)
    return model


@pytest.fixture(scope="session")
def model() -> VLMamba:
    return random_model()
