"""What a Mamba language model is asked to do when it is timed: read, write a token, learn."""

from collections.abc import Callable

import torch
from torch import Tensor

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM
from vlmamba.ops import linear_cross_entropy
from vlmamba.state import State

SIZES = {
    "130m": MambaConfig(d_model=768, n_layer=24),
    "1.4b": MambaConfig(d_model=2048, n_layer=48),
    "2.8b": MambaConfig(d_model=2560, n_layer=64),
}


def random_model(config: MambaConfig, device: torch.device, dtype: torch.dtype) -> MambaLM:
    """A model with the weights of a fresh start; its speed is that of a trained one."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return MambaLM(config)
    finally:
        torch.set_default_dtype(before)


def random_tokens(config: MambaConfig, b: int, l: int, device: torch.device) -> Tensor:
    return torch.randint(2, config.vocab_size, (b, l), device=device)


def reading(model: MambaLM, ids: Tensor) -> Callable[[], Tensor]:
    """Prefill: ids (b, l) into an empty state, and the logits of the last position (b, v)."""
    weight = model.lm_head.weight

    @torch.inference_mode()
    def run() -> Tensor:
        state = State.allocate(model.config, len(ids), weight.device, weight.dtype)
        hidden = model.backbone(model.backbone.embeddings(ids), state=state)
        return model.lm_head(hidden[:, -1])

    return run


def writing(model: MambaLM, b: int) -> Callable[[], Tensor]:
    """A decoding step of b sequences without the engine: the likeliest next token of each (b, 1)."""
    weight = model.lm_head.weight
    state = State.allocate(model.config, b, weight.device, weight.dtype)
    token = torch.full((b, 1), 2, device=weight.device)

    @torch.inference_mode()
    def run() -> Tensor:
        hidden = model.backbone(model.backbone.embeddings(token), state=state)
        return model.lm_head(hidden[:, -1]).argmax(-1, keepdim=True)

    return run


def next_token_loss(model: MambaLM, ids: Tensor) -> Tensor:
    """The mean loss of every token of ids (b, l) but the first of each row, as training takes it."""
    hidden = model.backbone(model.backbone.embeddings(ids))[:, :-1].flatten(0, 1)
    return linear_cross_entropy(hidden, model.lm_head.weight, ids[:, 1:].flatten()) / len(hidden)


def learning(model: MambaLM, ids: Tensor) -> Callable[[], None]:
    """Forward and backward pass over ids (b, l); gradients are made anew each time."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        next_token_loss(model, ids).backward()

    return run
