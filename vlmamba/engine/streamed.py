"""The decoding step of a few rows as a chain of four kernels a layer that start early (ops/stream.py)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.ops import cuda_runtime
from vlmamba.ops.stream import (
    Conv,
    Ring,
    num_splits,
    stream_norm,
    stream_product,
    stream_scan,
    stream_select,
)  # fmt: skip
from vlmamba.ops.stream_launch import OLDEST, STATE, TAPS, THREADS
from vlmamba.state import State


class Rings(NamedTuple):
    in_proj: Ring
    out_proj: Ring
    lm_head: Ring
    norm_apart: bool = False  # in a kernel of its own


# What the rings below are made for.
WIDEST, SHARED_BYTES = 2560, 227 * 1024
# Measured at the width of 2.8 B parameters, see docs/kernels.md.
ONE_OR_TWO = Rings(Ring(8, 2, least=4), Ring(5, 2, least=4), Ring(8, 2))
SEVERAL = Rings(Ring(8, 2, group=4), Ring(5, 2, held=True), Ring(8, 2))


def rings_for(b: int) -> Rings:
    return ONE_OR_TWO if b <= 2 else SEVERAL


class StreamedStep:
    """Decoding steps as `FusedStep` takes them, of at most 8 rows in bfloat16."""

    def __init__(self, model: VLMamba, b: int, rings: Rings | None = None) -> None:
        self.model = model
        self.rings = rings or rings_for(b)
        config = model.config.text
        d, e = config.d_model, config.d_inner
        self.splits = num_splits(e)
        width = _first_block(model).mixer.dt_rank + 2 * config.d_state

        def new(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
            return torch.empty(shape, device=model.device, dtype=dtype)

        self.residual = new(b, d, dtype=torch.float32)
        self.hidden = new(b, d)
        self.uz = new(b, 2 * e)
        self.selected = new(self.splits, b, width, dtype=torch.float32)
        self.y = new(b, e)
        self.logits = new(b, config.vocab_size)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, before: State, after: State) -> Tensor:
        """The logits stand in a buffer that the next step overwrites."""
        language_model, rings = self.model.model.language_model, self.rings
        b = tokens.shape[0]
        # Not at the end: what comes before the chain has ended when its kernels wait, and what comes behind it waits.
        torch.add(before.length, 1, out=after.length)
        start: dict[str, Any] = {"tokens": tokens, "embeddings": language_model.embeddings.weight}
        for i, block in enumerate(language_model.layers):
            assert isinstance(block, MambaBlock)
            norm, mixer = block.norm, block.mixer
            conv = Conv(
                before.conv_state[i], after.conv_state[i], mixer.conv1d.weight, mixer.conv1d.bias
            )
            rows: dict[str, Any]
            if rings.norm_apart:
                stream_norm(self.residual, norm.weight, norm.eps, self.hidden, **start)
                rows = {"x": self.hidden}
            else:
                rows = {"residual": self.residual, "norm": norm.weight, "eps": norm.eps, **start}
            stream_product(mixer.in_proj.weight, rings.in_proj, b, out=self.uz, conv=conv, **rows)
            stream_select(self.uz, mixer.x_proj.weight, self.selected)
            stream_scan(
                self.uz, self.selected, before.ssm_state[i], after.ssm_state[i],
                mixer.dt_proj.weight, mixer.dt_proj.bias, mixer.A_log, mixer.D, self.y,
            )  # fmt: skip
            stream_product(
                mixer.out_proj.weight, rings.out_proj, b, x=self.y, residual=self.residual, **start
            )
            start = {}
        norm = language_model.norm_f
        stream_product(
            self.model.lm_head.weight, rings.lm_head, b,
            residual=self.residual, norm=norm.weight, eps=norm.eps, out=self.logits,
        )  # fmt: skip
        return self.logits


def why_not_streamed(model: VLMamba) -> str | None:
    """What keeps a model's steps from these kernels, in a few words; None when nothing does."""
    config = model.config.text
    rank = _first_block(model).mixer.dt_rank
    if model.dtype != torch.bfloat16:
        return f"{model.dtype} is not bfloat16"
    if config.d_model % THREADS or config.d_inner % THREADS or rank % 32:
        return f"a width of {config.d_model} and a rank of {rank} do not fill their warps"
    if config.d_model > WIDEST:
        return f"a width of {config.d_model} does not fit their rings"
    if (config.d_state, config.d_conv) != (STATE, TAPS):
        return f"d_state {config.d_state} and d_conv {config.d_conv} are not {STATE} and {TAPS}"
    if any(weight.data_ptr() % 16 for weight in model.parameters()):
        return "a weight begins where the copy engine cannot"
    if torch.cuda.get_device_capability(model.device) < OLDEST:
        return "the device has no copy engine for shared memory"
    if torch.cuda.get_device_properties(model.device).shared_memory_per_block_optin < SHARED_BYTES:
        return "a block may have too little shared memory"
    return cuda_runtime.unavailable(model.device.index or 0)


def _first_block(model: VLMamba) -> MambaBlock:
    first = model.model.language_model.layers[0]
    assert isinstance(first, MambaBlock)
    return first
