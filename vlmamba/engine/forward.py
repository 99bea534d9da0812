"""The two passes of generation over plain PyTorch modules: read a prompt, then read one token a time."""

import torch
from torch import Tensor

from vlmamba.model import VLMamba
from vlmamba.state import State


@torch.no_grad()
def prefill(
    model: VLMamba,
    embeds: Tensor,
    attention_mask: Tensor,
    state: State,
    chunk: int | None = None,
) -> Tensor:
    """embeds (b, l, d) read into `state` -> logits (b, v) after each row's last real position.

    `attention_mask` (b, l) is False at padding, on whichever side; `chunk` bounds the positions, and with
    them the memory, of one pass, and changes nothing else.
    """
    b, l, _ = embeds.shape
    last = attention_mask.int().mul(torch.arange(1, l + 1, device=embeds.device)).argmax(1)  # (b,)
    hidden = embeds.new_zeros(b, model.config.text.d_model)
    padded = not bool(attention_mask.all())
    for start in range(0, l, chunk or l):
        piece = slice(start, start + (chunk or l))
        out = model.model.language_model(
            embeds[:, piece],
            state=state,
            attention_mask=attention_mask[:, piece] if padded else None,
        )
        ends_here = (last >= start) & (last < start + out.shape[1])  # (b,)
        index = (last - start).clamp(0, out.shape[1] - 1)
        at_last = out.gather(1, index[:, None, None].expand(-1, 1, out.shape[2])).squeeze(1)
        hidden = torch.where(ends_here[:, None], at_last.to(hidden.dtype), hidden)
    return model.lm_head(hidden)


@torch.no_grad()
def decode(model: VLMamba, tokens: Tensor, state: State) -> Tensor:
    """tokens (b,) read into `state` -> logits (b, v) of the next."""
    embeds = model.model.language_model.embeddings(tokens[:, None])
    return model.lm_head(model.model.language_model(embeds, state=state).squeeze(1))
