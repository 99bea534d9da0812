"""What the language model is asked to do when it is timed: read, write, learn."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from vlmamba.config import ConnectorConfig, MambaConfig, ModelConfig, VisionConfig
from vlmamba.engine import Sampling, generate
from vlmamba.model import VLMamba

SIZES = {
    "130m": MambaConfig(d_model=768, n_layer=24),
    "1.4b": MambaConfig(d_model=2048, n_layer=48),
    "2.8b": MambaConfig(d_model=2560, n_layer=64),
}
# A tower that is never called; the whole model is what the engine takes.
NO_TOWER = VisionConfig("siglip", 16, 16, 1, 1, 16, 8, 1e-6, "gelu_pytorch_tanh")
# Ids that neither the timed prompts nor the answers hold: an answer must not end before its time.
IMAGE, EOS, PAD = 0, 1, 2
FIRST = 3


def random_model(config: MambaConfig, device: torch.device, dtype: torch.dtype) -> VLMamba:
    """A model with the weights of a fresh start; its speed is that of a trained one."""
    whole = ModelConfig(NO_TOWER, ConnectorConfig("mlp"), config, IMAGE, EOS, PAD)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return VLMamba(whole)
    finally:
        torch.set_default_dtype(before)


def random_tokens(config: MambaConfig, b: int, l: int, device: torch.device) -> Tensor:
    return torch.randint(FIRST, config.vocab_size, (b, l), device=device)


def reading(model: VLMamba, ids: Tensor) -> Callable[[], object]:
    """Prompts ids (b, l) to the first token of each, as the engine answers."""

    @torch.inference_mode()
    def run() -> object:
        return list(generate(model, ids, sampling=Sampling(max_new_tokens=1)))

    return run


@torch.inference_mode()
def writing_ms(model: VLMamba, ids: Tensor, tokens: int) -> float:
    """Milliseconds a token of each of the prompts ids (b, l), once the first is there."""
    writing = generate(model, ids, sampling=Sampling(max_new_tokens=tokens))
    next(writing)
    start = time.perf_counter()
    steps = sum(1 for _ in writing)
    return 1e3 * (time.perf_counter() - start) / steps


def learning(model: VLMamba, ids: Tensor) -> Callable[[], None]:
    """Forward and backward pass of the next-token loss over ids (b, l); gradients are made anew each time."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        total, count = model.supervised_loss(model.model(ids), ids)
        (total / count).backward()

    return run
