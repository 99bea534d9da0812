"""The decoding step of a few rows as a chain of four kernels a layer that start early (ops/stream.py)."""

from typing import NamedTuple

import torch
from torch import Tensor

from vlmamba.engine.chain import first_block, why_no_chain
from vlmamba.mamba import MambaBlock
from vlmamba.model import VLMamba
from vlmamba.ops import cuda_runtime
from vlmamba.ops.stream import (
    Coming,
    Ring,
    Rows,
    num_splits,
    stream_embed,
    stream_product,
    stream_scan,
    stream_select,
)  # fmt: skip
from vlmamba.ops.stream_launch import OLDEST, THREADS, Conv
from vlmamba.state import State


class Reach(NamedTuple):
    """Bytes of every block's share of a weight that a kernel asks into the second-level cache: `take` after `skip`."""

    skip: int = 0
    take: int = 0

    def into(self, weight: Tensor, ring: Ring) -> Coming | None:
        return Coming(weight, ring.tile, *self) if self.take else None


class Rings(NamedTuple):
    """How weights come, and what x_proj asks for of out_proj, the scan and out_proj of the next layer's in_proj."""

    in_proj: Ring
    out_proj: Ring
    lm_head: Ring
    from_select: Reach = Reach()
    from_scan: Reach = Reach()
    from_out: Reach = Reach()


# What the rings below are made for.
WIDEST, SHARED_BYTES = 2560, 227 * 1024
KIB = 1024
# Measured at the width of 2.8 B parameters, see docs/kernels.md. All have the same tiles of out_proj, by which the
# squares of a row are added: so a row has the same bits in any batch.
UP_TO_TWO = Rings(
    Ring(8, 2, ahead=1, least=4),
    Ring(5, 2, ahead=5, least=4),
    Ring(8, 2),
    from_scan=Reach(120 * KIB, 20 * KIB),
    from_out=Reach(80 * KIB, 20 * KIB),
)
UP_TO_SIX = Rings(
    Ring(8, 2, ahead=2, least=4),
    Ring(5, 2, ahead=5, least=4, near=1),
    Ring(8, 2, ahead=5),
    from_scan=Reach(0, 100 * KIB),
    from_out=Reach(120 * KIB, 20 * KIB),
)
UP_TO_EIGHT = Rings(
    Ring(8, 2, ahead=5, least=3),
    Ring(5, 2, ahead=4, held=True),
    Ring(8, 2, ahead=5, near=1),
    from_select=Reach(100 * KIB, 50 * KIB),
    from_scan=Reach(0, 100 * KIB),
    from_out=Reach(120 * KIB, 20 * KIB),
)


def rings_for(b: int) -> Rings:
    return UP_TO_TWO if b <= 2 else UP_TO_SIX if b <= 6 else UP_TO_EIGHT


class StreamedStep:
    """Decoding steps as `FusedStep` takes them, of at most 8 rows in bfloat16."""

    def __init__(self, model: VLMamba, b: int, rings: Rings | None = None) -> None:
        self.model = model
        self.rings = rings or rings_for(b)
        config = model.config.text
        d, e = config.d_model, config.d_inner
        self.splits = num_splits(e)
        width = first_block(model).mixer.dt_rank + 2 * config.d_state

        def new(*shape: int, dtype: torch.dtype = model.dtype) -> Tensor:
            return torch.empty(shape, device=model.device, dtype=dtype)

        self.rows = Rows.new(b, d, model.dtype, model.device)
        self.uz = new(b, 2 * e)
        self.selected = new(self.splits, b, width, dtype=torch.float32)
        self.y = new(b, e)
        self.logits = new(b, config.vocab_size)

    @torch.no_grad()
    def __call__(self, tokens: Tensor, before: State, after: State) -> Tensor:
        """The logits stand in a buffer that the next step overwrites."""
        language_model, rings, rows = self.model.model.language_model, self.rings, self.rows
        # Not at the end: what comes before the chain has ended when its kernels wait, and what comes behind it waits.
        torch.add(before.length, 1, out=after.length)
        layers: list[MambaBlock] = [*language_model.layers]  # pyright: ignore[reportAssignmentType]
        norms = [*(block.norm for block in layers), language_model.norm_f]
        head = self.model.lm_head.weight
        # What comes after a layer, of in_proj the half that is convolved.
        coming = [
            *((l.mixer.in_proj.weight.chunk(2)[0], rings.in_proj) for l in layers[1:]),
            (head, rings.lm_head),
        ]
        stream_embed(tokens, language_model.embeddings.weight, norms[0].weight, rows)
        for i, block in enumerate(layers):
            mixer, out_proj = block.mixer, block.mixer.out_proj.weight
            conv = Conv(
                before.conv_state[i], after.conv_state[i], mixer.conv1d.weight, mixer.conv1d.bias
            )
            stream_product(
                mixer.in_proj.weight, rings.in_proj, rows,
                eps=block.norm.eps, out=self.uz, conv=conv,
            )  # fmt: skip
            stream_select(
                self.uz, mixer.x_proj.weight, self.selected,
                rings.from_select.into(out_proj, rings.out_proj),
            )  # fmt: skip
            stream_scan(
                self.uz, self.selected, before.ssm_state[i], after.ssm_state[i],
                mixer.dt_proj.weight, mixer.dt_proj.bias, mixer.A_log, mixer.D, self.y,
                rings.from_scan.into(*coming[i]),
            )  # fmt: skip
            stream_product(
                out_proj, rings.out_proj, self.y, rows=rows, norm=norms[i + 1].weight,
                coming=rings.from_out.into(*coming[i]),
            )  # fmt: skip
        stream_product(head, rings.lm_head, rows, eps=norms[-1].eps, out=self.logits)
        return self.logits


def why_not_streamed(model: VLMamba) -> str | None:
    """What keeps a model's steps from these kernels, in a few words; None when nothing does."""
    if why := why_no_chain(model, THREADS):
        return why
    if model.config.text.d_model > WIDEST:
        return f"a width of {model.config.text.d_model} does not fit their rings"
    if torch.cuda.get_device_capability(model.device) < OLDEST:
        return "the device has no copy engine for shared memory"
    if torch.cuda.get_device_properties(model.device).shared_memory_per_block_optin < SHARED_BYTES:
        return "a block may have too little shared memory"
    return cuda_runtime.unavailable(model.device.index or 0)
