"""What the steps in CUDA C++ ask of a model: those of few rows (streamed.py) and of many (many.py)."""

import torch

from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.ops.stream_launch import STATE, TAPS


def first_block(model: VLMamba) -> MambaBlock:
    first = model.model.language_model.layers[0]
    assert isinstance(first, MambaBlock)
    return first


def why_no_chain(model: VLMamba, multiple: int) -> str | None:
    """What of a model itself keeps its steps from CUDA C++ whose widths are multiples of `multiple`; None: nothing."""
    config = model.config.text
    rank = first_block(model).mixer.dt_rank
    if model.dtype != torch.bfloat16:
        return f"{model.dtype} is not bfloat16"
    if config.d_model % multiple or config.d_inner % multiple or rank % 32:
        return f"a width of {config.d_model} and a rank of {rank} do not fill their warps"
    if (config.d_state, config.d_conv) != (STATE, TAPS):
        return f"d_state {config.d_state} and d_conv {config.d_conv} are not {STATE} and {TAPS}"
    if any(weight.data_ptr() % 16 for weight in model.parameters()):
        return "a weight begins where the copy engine cannot"
    return None
