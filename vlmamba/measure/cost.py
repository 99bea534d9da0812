"""What a Mamba language model must do at least: operations in its matrix products, bytes of its weights."""

from vlmamba.config import MambaConfig


def layer_matmul_parameters(config: MambaConfig) -> int:
    """Weights of a layer that stand in matrix products: in_proj, x_proj, dt_proj, out_proj."""
    d, e, rank = config.d_model, config.d_inner, config.dt_rank or -(-config.d_model // 16)
    return d * 2 * e + e * (rank + 2 * config.d_state) + rank * e + e * d


def forward_flops(config: MambaConfig, tokens: int, logits: int) -> int:
    """Operations in the matrix products of a forward pass over `tokens`, `logits` of which go through the head."""
    layers = config.n_layer * layer_matmul_parameters(config)
    return 2 * (tokens * layers + logits * config.vocab_size * config.d_model)


def training_flops(config: MambaConfig, tokens: int) -> int:
    """Operations in the matrix products of a forward and a backward pass, nothing computed anew."""
    return 3 * forward_flops(config, tokens, tokens)
