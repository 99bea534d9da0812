"""The two passes of generation: read a prompt, then read one token a time; module by module, or from graphs."""

import torch
from torch import Tensor

from vlmamba.engine.graphs import Graphs
from vlmamba.model import VLMamba
from vlmamba.state import State
from vlmamba.upload import upload


@torch.no_grad()
def embed(
    model: VLMamba,
    input_ids: Tensor,
    pixel_values: Tensor | None = None,
    image_embeds: Tensor | None = None,
    graphs: Graphs | None = None,
) -> Tensor:
    """`VLMambaModel.embed`, the pictures' part of it from graphs where there are some."""
    if pixel_values is not None and graphs is not None:
        image_embeds = graphs.image_embeds(pixel_values)
        pixel_values = None
    return model.model.embed(input_ids, pixel_values, image_embeds)


@torch.no_grad()
def prefill(
    model: VLMamba,
    embeds: Tensor,
    attention_mask: Tensor,
    state: State,
    chunk: int | None = None,
    graphs: Graphs | None = None,
) -> Tensor:
    """embeds (b, l, d) read into `state` -> logits (b, v) after each row's last real position.

    `attention_mask` (b, l), there or on the CPU, is False at padding, on whichever side; `chunk` bounds the
    positions, and with them the memory, of one pass, and changes nothing else.
    """
    if graphs is not None and chunk is None:
        embeds, lengths = to_the_front(embeds, attention_mask)
        return model.lm_head(graphs.read(embeds, lengths, state))
    b, l, _ = embeds.shape
    attention_mask = attention_mask.to(embeds.device)
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


def to_the_front(embeds: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """embeds (b, l, d) with each row's real positions first, and their number (b,); None without padding."""
    lengths = attention_mask.sum(1)
    in_front = torch.arange(embeds.shape[1], device=lengths.device) < lengths[:, None]  # (b, l)
    # One question to the mask's device instead of two.
    fits, whole = torch.stack([(in_front == attention_mask).all(), in_front.all()]).tolist()
    if whole:
        return embeds, None
    if not fits:
        order = upload((~attention_mask).int().argsort(dim=1, stable=True), embeds.device)
        embeds = embeds.gather(1, order[..., None].expand_as(embeds))
    return embeds, upload(lengths, embeds.device)
