"""The decoding step of many rows in bfloat16 as a chain of kernels in CUDA C++ (ops/many.py), and few in Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

from vlmamba.engine.chain import first_block, why_no_chain
from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.ops import cuda_runtime
from vlmamba.ops.decode import add_norm
from vlmamba.ops.many import Cut, many_product, many_scan, num_splits
from vlmamba.ops.stream_launch import OLDEST, Conv
from vlmamba.ops.thin_linear import Tile, sum_partials, thin_linear
from vlmamba.state import State


class Cuts(NamedTuple):
    """How the products of a step are cut; measured at the width of 2.8 B parameters, see docs/kernels.md."""

    in_proj: Cut = Cut()
    x_proj: Cut = Cut(splits=20, stages=4, waiting=4, alone=False)
    out_proj: Cut = Cut(splits=4)
    lm_head: Tile = Tile(64, 64, num_stages=5, ahead=256)


class ManyStep:
    """Decoding steps as `FusedStep` takes them, of at most 64 rows in bfloat16."""

    def __init__(self, model: VLMamba, b: int, cuts: Cuts | None = None) -> None:
        self.model = model
        self.cuts = cuts = cuts or Cuts()
        config = model.config.text
        d, e = config.d_model, config.d_inner
        width = first_block(model).mixer.dt_rank + 2 * config.d_state

        def new(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
            return torch.empty(shape, device=model.device, dtype=dtype)

        self.residual = new(b, d, dtype=torch.float32)
        self.hidden = new(b, d)
        self.uz = new(b, 2 * e)
        self.partial_select = new(num_splits(e, cuts.x_proj), b, width, dtype=torch.float32)
        self.selected = new(b, width)
        self.y = new(b, e)
        self.mixed = new(num_splits(e, cuts.out_proj), b, d, dtype=torch.float32)
        self.logits = new(1, b, config.vocab_size)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, before: State, after: State) -> Tensor:
        """The logits stand in a buffer that the next step overwrites."""
        language_model, cuts = self.model.model.language_model, self.cuts
        mixed: Tensor | None = None
        start = {"tokens": tokens, "embeddings": language_model.embeddings.weight}
        for i, block in enumerate(language_model.layers):
            assert isinstance(block, MambaBlock)
            norm, mixer = block.norm, block.mixer
            conv = Conv(
                before.conv_state[i], after.conv_state[i], mixer.conv1d.weight, mixer.conv1d.bias
            )
            add_norm(self.residual, mixed, norm.weight, norm.eps, self.hidden, **start)
            start = {}
            many_product(self.hidden, mixer.in_proj.weight, self.uz, cuts.in_proj, conv)
            u = self.uz[:, : self.y.shape[1]]
            many_product(u, mixer.x_proj.weight, self.partial_select, cuts.x_proj)
            sum_partials(self.partial_select, self.selected)
            many_scan(
                self.uz, self.selected, before.ssm_state[i], after.ssm_state[i],
                mixer.dt_proj.weight, mixer.dt_proj.bias, mixer.A_log, mixer.D, self.y,
            )  # fmt: skip
            many_product(self.y, mixer.out_proj.weight, self.mixed, cuts.out_proj)
            mixed = self.mixed
        norm = language_model.norm_f
        add_norm(self.residual, mixed, norm.weight, norm.eps, self.hidden)
        thin_linear(self.hidden, self.model.lm_head.weight, self.logits, cuts.lm_head)
        torch.add(before.length, 1, out=after.length)
        return self.logits[0]


def why_not_many(model: VLMamba) -> str | None:
    """What keeps a model's steps from these kernels, in a few words; None when nothing does."""
    if why := why_no_chain(model, 8):  # channels, which are 16 bytes
        return why
    if torch.cuda.get_device_capability(model.device) != OLDEST:
        return "the kernels are made for compute capability 9.0"
    return cuda_runtime.unavailable(model.device.index or 0)
