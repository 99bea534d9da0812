"""How weights begin, and what a directory must hold, in transformers' terms.

transformers builds a model without memory and fills in afterwards what a directory did not hold, so every
parameter is set here, and only through `transformers.initialization`, which leaves loaded ones alone.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from vlmamba.mamba import DtProjection, MambaMixer, RMSNorm, SelectiveSSM
from vlmamba.vision import VisionEmbeddings


def initialise(module: nn.Module, model: PreTrainedModel) -> None:
    """Sets the parameters of one module of `model` as its constructor does; children come before their parents.

    transformers passes over modules that own no parameter directly, so nothing may hang on those.
    """
    match module:
        case DtProjection():
            _initialise_steps(module)
        case nn.Linear() | nn.Conv1d() | nn.Conv2d():
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        case nn.Embedding():
            is_vocabulary = module is model.get_input_embeddings()
            init.normal_(module.weight, std=0.02 if is_vocabulary else 1.0)
        case nn.LayerNorm():
            init.ones_(module.weight)
            init.zeros_(module.bias)
        case RMSNorm():
            init.ones_(module.weight)
        case VisionEmbeddings() if module.clip:
            init.normal_(module.class_embedding)
        case SelectiveSSM():
            d_inner, d_state = module.A_log.shape
            init.copy_(module.A_log, torch.arange(1, d_state + 1).log().expand(d_inner, d_state))
            init.ones_(module.D)
            if isinstance(
                module, MambaMixer
            ):  # scaled down by sqrt(n_layer), as in state-spaces/mamba
                bound = 1 / math.sqrt(d_inner * model.config.text_config.num_hidden_layers)
                init.uniform_(module.out_proj.weight, -bound, bound)


def _initialise_steps(dt_proj: DtProjection) -> None:
    """Steps log-uniform in [0.001, 0.1], as in `SelectiveSSM.reset_ssm_parameters`."""
    bound = dt_proj.in_features**-0.5
    init.uniform_(dt_proj.weight, -bound, bound)
    step = torch.empty(dt_proj.out_features).uniform_(math.log(1e-3), math.log(0.1)).exp()
    init.copy_(dt_proj.bias, step + torch.log(-torch.expm1(-step)))


def check_loading(model: PreTrainedModel, info: dict[str, Any], source: str) -> None:
    """Raises ValueError unless every weight was found in `source`, was used, and is finite."""
    faults = {
        "lack": info["missing_keys"],
        "hold the unknown": info["unexpected_keys"],
        "hold, in another shape,": [entry[0] for entry in info["mismatched_keys"]],
        "hold numbers that are not finite in": [
            name
            for name, parameter in model.named_parameters()
            if parameter.is_floating_point()
            and parameter.device.type != "meta"
            and not parameter.isfinite().all()
        ],
    }
    for fault, names in faults.items():
        if names:
            first, others = sorted(names)[0], len(names) - 1
            more = f" and {others} more" if others else ""
            raise ValueError(
                f"{source}: the weights {fault} {first}{more}: take a whole directory of this model, "
                "or pass strict=False"
            )
