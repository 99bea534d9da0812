"""LoRA (arXiv 2106.09685) through PEFT: the language model stays as it is, small matrices beside its own learn.

Of a Mamba layer all four projections are adapted; embeddings, head, convolutions and dynamics stay. Frozen matrices are
kept in bfloat16 where the arithmetic is bfloat16 anyway: half the memory, the very same products. When the stage is
done the adapters are added to the matrices, and the model is as any other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vlmamba.model import VLMamba

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")
MARK = ".lora_"  # in the name of an adapter's parameter


@dataclass(frozen=True)
class Lora:
    """Adapters of a stage; rank 0: none. The defaults are LLaVA-1.5's (scripts/v1_5/finetune_lora.sh)."""

    rank: int = 0
    alpha: float = 256.0  # the adapters' product is multiplied with alpha / rank
    dropout: float = 0.05  # of their input
    connector_rate: float = 0.1  # the connector's share of the learning rate: 2e-5 of 2e-4

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or self.connector_rate <= 0:
            raise ValueError(
                "lora needs a rank of 0 or more, and a positive alpha and connector_rate"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be at least 0 and below 1, got {self.dropout}")


def add(model: VLMamba, lora: Lora, seed: int, frozen_dtype: torch.dtype | None = None) -> None:
    """Puts adapters beside the projections of the language model, in place; `seed` draws them.

    frozen_dtype: what the language model's matrices are kept in from now on, None: what they are.
    Raises ImportError in one line where PEFT is not installed.
    """
    peft = _library()
    if frozen_dtype is not None:
        for matrix in _matrices(model):
            matrix.data = matrix.data.to(frozen_dtype)
    where = r"model\.language_model\.layers\.\d+\.mixer\." + f"({'|'.join(PROJECTIONS)})"
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=where
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model)
    for _, _, _, module in _adapted(model):
        module.cast_input_dtype_enabled = False  # autocast casts what it must, to the narrower type
    for name, parameter in model.named_parameters():
        if MARK in name:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merge(model: VLMamba) -> None:
    """Adds the adapters to their matrices and removes them; the language model is float32 again."""
    for _, parent, child, module in list(_adapted(model)):
        base = module.get_base_layer()
        base.weight.data = base.weight.data.float()
        module.merge()
        setattr(parent, child, base)
    for matrix in _matrices(model):
        matrix.data = matrix.data.float()


def _adapted(model: VLMamba) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Every projection with an adapter: its name, the module it is in, its name there, itself."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            yield name, model.get_submodule(parent), child, module


def _matrices(model: VLMamba) -> Iterator[nn.Parameter]:
    """What autocast rounds whenever it is used: the matrices of the language model and of its head."""
    seen: set[int] = set()
    language = model.model.language_model
    for name, parameter in [*language.named_parameters(), ("head", model.lm_head.weight)]:
        matrix = parameter.ndim == 2 and not name.endswith("A_log") and MARK not in name
        if matrix and id(parameter) not in seen:
            seen.add(id(parameter))
            yield parameter


def _library() -> Any:
    try:
        import peft
    except ImportError:
        raise ImportError("lora needs PEFT: pip install 'vlmamba[transformers]'") from None
    return peft
