"""The optimiser of a stage: AdamW, whose two moments of a weight take eight bytes, or two through bitsandbytes.

In eight bits a block of 256 moments shares a scale (arXiv 2110.02861), and tensors of fewer than 4096 numbers stay
float32. The library brings its kernels compiled, for GPUs as for the CPU.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from vlmamba.train.adapters import library
from vlmamba.train.checkpoint import Stored
from vlmamba.train.stages import TRAINED, Optimizer, StageConfig

# Of a trained weight; in eight bits the scales of both moments count too.
MOMENT_BYTES: Mapping[Optimizer, float] = {"adamw": 8.0, "adamw8bit": 2 * (1 + 4 / 256)}


def decayed(model: nn.Module) -> Iterator[tuple[str, Parameter, bool]]:
    """Every trained parameter, its name, and whether weight decay applies to it.

    Decay pulls towards zero, so it belongs on matrices that mix features and nowhere else. A_log at zero is
    A = -1 everywhere: decay would erase the spread of time scales a state-space model lives on (state-spaces
    exempts A_log and D for that reason). Norm weights rest at one, not at zero; biases, dt's above all, set
    operating points. Rows of an embedding table move only when their token occurs, but would decay always.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and not name.endswith("A_log")
            yield name, parameter, matrix and id(parameter) not in tables


def build_optimizer(model: nn.Module, stage: StageConfig) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, with weight decay where it belongs; fused where PyTorch can.

    One group for each kind: decayed or not, divided over processes or not, which no one kernel takes together, and by
    `rate`, its share of the learning rate, which is less than one for a connector beside adapters.
    Raises ImportError in one line when the library of eight bits is missing.
    """
    kinds: dict[tuple[bool, bool, float], list[Parameter]] = {}
    for name, parameter, decay in decayed(model):
        slower = stage.lora.rank > 0 and name.startswith(TRAINED["align"])
        rate = stage.lora.connector_rate if slower else 1.0
        kinds.setdefault((decay, isinstance(parameter, DTensor), rate), []).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": stage.weight_decay if decay else 0.0, "rate": rate}
        for (decay, _, rate), parameters in kinds.items()
    ]
    common = {"lr": stage.lr, "betas": stage.betas, "eps": stage.eps}
    if stage.optimizer == "adamw8bit":
        bitsandbytes = library("bitsandbytes", "optimizer=adamw8bit", "quantised")
        return bitsandbytes.optim.AdamW8bit(groups, **common)
    return torch.optim.AdamW(groups, **common, fused=True)


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Parameter]
) -> Iterator[tuple[str, Tensor]]:
    """What the optimiser keeps of every parameter, as `<kind>.<parameter>`."""
    for name, parameter in parameters.items():
        for kind, value in optimizer.state[parameter].items():
            yield f"{kind}.{name}", torch.as_tensor(value)


def restore_moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Parameter], stored: Stored
) -> None:
    """Puts back what `moments` gave, placed and divided as the parameters are."""

    def room(key: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        parameter = parameters[key.split(".", 1)[1]]
        if shape == parameter.shape:
            return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        return torch.empty(shape, dtype=dtype, device=parameter.device)

    for key, value in stored.read(room).items():
        kind, name = key.split(".", 1)
        # Eight bits count steps in a plain number.
        counter = value.ndim == 0 and not value.is_floating_point()
        optimizer.state[parameters[name]][kind] = value.item() if counter else value
