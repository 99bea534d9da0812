"""The decoding step as a chain of fused kernels, for a language model whose layers are as they were built."""

from typing import NamedTuple

import torch
from torch import Tensor

from vlmamba.engine.chain import first_block
from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.ops.decode import add_norm, conv_select, ssm_step
from vlmamba.ops.thin_linear import Tile, num_splits, sum_partials, thin_linear
from vlmamba.state import State


class Plan(NamedTuple):
    """How the kernels of a step are cut at some batch size; measured, see docs/kernels.md."""

    in_proj: Tile
    out_proj: Tile
    lm_head: Tile
    select_splits: int = 20
    select_block_n: int = 64
    select_rows: int = 1
    select_warps: int = 4
    step_rows: int = 1
    step_block_e: int = 32
    dt_proj: Tile | None = None  # dt_proj in a kernel of its own


def plan_for(b: int) -> Plan:
    """The plan for b rows: one for few and one for many, so that a row seldom changes its last bits with b."""
    if b <= 8:
        return Plan(
            in_proj=Tile(64, 128, num_stages=5),
            out_proj=Tile(64, 128, splits=4, num_stages=5, ahead=1024),
            lm_head=Tile(64, 128, num_stages=4, ahead=256),
        )
    return Plan(
        in_proj=Tile(64, 64, num_stages=5),
        out_proj=Tile(64, 64, splits=4, num_stages=5, ahead=1024),
        lm_head=Tile(64, 64, num_stages=5, ahead=256),
        dt_proj=Tile(64, 32),
        select_rows=16,
        step_rows=4,
    )


class FusedStep:
    """Decoding steps of `b` rows: tokens (b,) and the state before -> logits (b, v) and the state after.

    Its buffers are its own: one step at a time. Numbers are rounded where the modules round them, so that the
    logits equal the plain forward's up to the order of sums.
    """

    def __init__(self, model: VLMamba, b: int, plan: Plan | None = None) -> None:
        self.model = model
        self.plan = plan = plan or plan_for(b)
        config = model.config.text
        d, e, n = config.d_model, config.d_inner, config.d_state
        width = first_block(model).mixer.dt_rank + 2 * n

        def new(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
            return torch.empty(shape, device=model.device, dtype=dtype)

        self.residual = new(b, d, dtype=torch.float32)
        self.hidden = new(b, d)
        self.xz = new(1, b, 2 * e)
        self.partial_select = new(plan.select_splits, b, width, dtype=torch.float32)
        self.selected = new(b, width)
        self.y = new(b, e)
        self.dt = None if plan.dt_proj is None else new(1, b, e)
        self.mixed = new(num_splits(e, plan.out_proj), b, d, dtype=torch.float32)
        self.logits = new(1, b, config.vocab_size)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, before: State, after: State) -> Tensor:
        """The logits stand in a buffer that the next step overwrites."""
        language_model, plan = self.model.model.language_model, self.plan
        mixed: Tensor | None = None
        start = {"tokens": tokens, "embeddings": language_model.embeddings.weight}
        for i, block in enumerate(language_model.layers):
            assert isinstance(block, MambaBlock)
            norm, mixer = block.norm, block.mixer
            conv = mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias
            add_norm(self.residual, mixed, norm.weight, norm.eps, self.hidden, **start)
            start = {}
            thin_linear(self.hidden, mixer.in_proj.weight, self.xz, plan.in_proj)
            xz = self.xz[0]
            conv_select(
                xz, before.conv_state[i], *conv, mixer.x_proj.weight, self.partial_select,
                plan.select_rows, plan.select_block_n, plan.select_warps,
            )  # fmt: skip
            sum_partials(self.partial_select, self.selected)
            dt = None
            if plan.dt_proj is not None and self.dt is not None:
                low = self.selected[:, : mixer.dt_rank]
                thin_linear(low, mixer.dt_proj.weight, self.dt, plan.dt_proj)
                dt = self.dt[0]
            ssm_step(
                xz, (before.conv_state[i], before.ssm_state[i]), (after.conv_state[i], after.ssm_state[i]),
                *conv, self.selected, mixer.dt_proj.weight, mixer.dt_proj.bias,
                mixer.A_log, mixer.D, self.y, plan.step_block_e, plan.step_rows, dt=dt,
            )  # fmt: skip
            thin_linear(self.y, mixer.out_proj.weight, self.mixed, plan.out_proj)
            mixed = self.mixed
        norm = language_model.norm_f
        add_norm(self.residual, mixed, norm.weight, norm.eps, self.hidden)
        thin_linear(self.hidden, self.model.lm_head.weight, self.logits, plan.lm_head)
        torch.add(before.length, 1, out=after.length)
        return self.logits[0]
