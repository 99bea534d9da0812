"""A random model so small that a test can afford many answers."""

import pytest
import torch

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.model import VLMamba


def random_model(vocab_size: int = 97, dtype: torch.dtype = torch.float64) -> VLMamba:
    """Random weights that speak in earnest: the head tells tokens well apart."""
    torch.manual_seed(3)
    vision = VisionConfig(
        layout="siglip", hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2,
        image_size=8, patch_size=4, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
    )  # fmt: skip
    text = MambaConfig(d_model=20, n_layer=3, vocab_size=vocab_size, d_state=5)
    config = ModelConfig(vision, ConnectorConfig(d_state=3), text, image_token_id=2)
    model = VLMamba(config).to(dtype).eval().requires_grad_(False)
    model.model.language_model.embeddings.weight.normal_(std=1.0)
    return model


@pytest.fixture(scope="session")
def model() -> VLMamba:
    return random_model()
