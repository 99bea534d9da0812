"""LoRA (arXiv 2106.09685) through PEFT: the language model stays as it is, small matrices beside its own learn.

Of a Mamba layer all four projections are adapted; embeddings, head, convolutions and dynamics stay. Frozen matrices are
kept in bfloat16 where the arithmetic is bfloat16 anyway: half the memory, the very same products. Or in four bits
(QLoRA, arXiv 2305.14314) through bitsandbytes: an eighth of the memory, and another, rounded language model to begin
with. When the stage is done the adapters are added to the matrices, and the model is as any other.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from vlmamba.model import VLMamba

PROJECTIONS = ("in_proj", "x_proj", "dt_proj", "out_proj")
MARK = ".lora_"  # in the name of an adapter's parameter
QUANTISED = ("in_proj", "x_proj", "out_proj")  # dt_proj is small, and adds its bias elsewhere

Frozen = Literal["half", "nf4"]


@dataclass(frozen=True)
class Lora:
    """Adapters of a stage; rank 0: none. The defaults are LLaVA-1.5's (scripts/v1_5/finetune_lora.sh)."""

    rank: int = 0
    alpha: float = 256.0  # the adapters' product is multiplied with alpha / rank
    dropout: float = 0.05  # of their input
    connector_rate: float = 0.1  # the connector's share of the learning rate: 2e-5 of 2e-4
    frozen: Frozen = "half"  # what the frozen matrices are kept in; nf4: four bits

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or self.connector_rate <= 0:
            raise ValueError(
                "lora needs a rank of 0 or more, and a positive alpha and connector_rate"
            )
        if self.frozen not in get_args(Frozen):
            raise ValueError(f"lora.frozen {self.frozen!r} is unknown: use half or nf4")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora.dropout must be at least 0 and below 1, got {self.dropout}")


def add(model: VLMamba, lora: Lora, seed: int, bf16: bool) -> None:
    """Puts adapters beside the projections of the language model, in place; `seed` draws them.

    bf16: whether the arithmetic will be bfloat16. Raises ImportError in one line for a library that is missing.
    """
    peft = library("peft", "lora", "transformers")
    if bf16:
        for matrix in _matrices(model):
            matrix.data = matrix.data.to(torch.bfloat16)
    four_bits = lora.frozen == "nf4" and model.device.type != "meta"
    if four_bits:
        _quantise(model)
    where = r"model\.language_model\.layers\.\d+\.mixer\." + f"({'|'.join(PROJECTIONS)})"
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=where
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.__dict__["is_loaded_in_4bit"] = four_bits  # PEFT looks for it
        peft.inject_adapter_in_model(config, model)
        del model.__dict__["is_loaded_in_4bit"]
    for _, _, module in _adapted(model):
        module.cast_input_dtype_enabled = False  # autocast casts what it must, to the narrower type
    for name, parameter in model.named_parameters():
        if MARK in name:
            parameter.data = parameter.data.float()


@torch.no_grad()
def merge(model: VLMamba) -> None:
    """Adds the adapters to their matrices and removes them; the language model is float32 again."""
    for parent, child, module in list(_adapted(model)):
        base = module.get_base_layer()
        delta = module.get_delta_weight("default").float()
        if isinstance(base.weight, nn.Parameter) and base.weight.is_floating_point():
            base.weight.data = base.weight.data.float() + delta
        else:
            base = _plain(base, delta)
        setattr(parent, child, base)
    for matrix in _matrices(model):
        matrix.data = matrix.data.float()


def _quantise(model: VLMamba) -> None:
    """Keeps the large projections in four bits, on the device where they are."""
    bitsandbytes = library("bitsandbytes", "lora.frozen=nf4", "quantised")
    for block in model.model.language_model.layers:
        mixer = block.get_submodule("mixer")
        for name in QUANTISED:
            plain = mixer.get_submodule(name)
            assert isinstance(plain, nn.Linear)
            four = bitsandbytes.nn.Linear4bit(
                plain.in_features,
                plain.out_features,
                plain.bias is not None,
                quant_type="nf4",
                device="meta",
            )
            four.weight = bitsandbytes.nn.Params4bit(
                plain.weight.data, requires_grad=False, quant_type="nf4"
            )
            four.bias = plain.bias
            setattr(mixer, name, four.to(plain.weight.device))


def _plain(four: Any, delta: Tensor) -> nn.Linear:
    """A projection of four bits as the linear layer that it stood for, `delta` added."""
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(four.weight.data, four.weight.quant_state).float() + delta
    with torch.device("meta"):
        plain = nn.Linear(weight.shape[1], weight.shape[0], four.bias is not None)
    plain.weight, plain.bias = nn.Parameter(weight), four.bias
    return plain


def _adapted(model: VLMamba) -> Iterator[tuple[nn.Module, str, Any]]:
    """Every projection with an adapter: the module it is in, its name there, itself."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            yield model.get_submodule(parent), child, module


def _matrices(model: VLMamba) -> Iterator[nn.Parameter]:
    """What autocast rounds whenever it is used: the matrices of the language model and of its head."""
    seen: set[int] = set()
    language = model.model.language_model
    for name, parameter in [*language.named_parameters(), ("head", model.lm_head.weight)]:
        matrix = parameter.ndim == 2 and not name.endswith("A_log") and MARK not in name
        if matrix and id(parameter) not in seen:
            seen.add(id(parameter))
            yield parameter


def library(name: str, setting: str, extra: str) -> Any:
    """The library that a setting needs; raises ImportError in one line when it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{setting} needs {name}: pip install 'vlmamba[{extra}]'") from None
