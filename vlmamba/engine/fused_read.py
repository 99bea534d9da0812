"""Reading many positions with few launches, for a language model whose layers are as they were built."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmamba.mamba import NO_STEP, MambaBlock, MambaMixer, MambaModel
from vlmamba.ops import causal_conv1d, selective_scan
from vlmamba.ops.decode import add_norm, keep_inputs
from vlmamba.state import State


@torch.no_grad()
def fused_read(
    language_model: MambaModel, embeds: Tensor, lengths: Tensor | None, state: State
) -> Tensor:
    """embeds (b, l, d) read into `state` -> the hidden states (b, d) after each row's last position.

    `lengths` (b,), each at least 1: positions from there on are padding and change nothing. Computes what
    `MambaModel.forward` does, for the last position alone behind the last layer.
    """
    b, l, d = embeds.shape
    residual = embeds.reshape(b * l, d).float()
    hidden = torch.empty(residual.shape, dtype=embeds.dtype, device=embeds.device)
    padded = None
    if lengths is not None:
        padded = torch.arange(l, device=embeds.device) >= lengths[:, None]  # (b, l)
    mixed: Tensor | None = None
    for i, block in enumerate(language_model.layers):
        assert isinstance(block, MambaBlock)
        add_norm(residual, mixed, block.norm.weight, block.norm.eps, hidden)
        layer_state = state.conv_state[i], state.ssm_state[i]
        mixed = _mix(block.mixer, hidden.view(b, l, d), layer_state, lengths, padded)
    last = torch.full_like(state.length, l - 1) if lengths is None else lengths - 1
    state.length += last + 1
    rows = torch.arange(b, device=embeds.device) * l + last
    residual = residual[rows]
    if mixed is not None:
        mixed = mixed[:, rows]
    out = torch.empty((b, d), dtype=embeds.dtype, device=embeds.device)
    norm = language_model.norm_f
    add_norm(residual, mixed, norm.weight, norm.eps, out)
    return out


def _mix(
    mixer: MambaMixer,
    hidden: Tensor,
    state: tuple[Tensor, Tensor],
    lengths: Tensor | None,
    padded: Tensor | None,
) -> Tensor:
    """A Mamba layer: hidden (b, l, d) -> (1, b * l, d), `state` moved on in place."""
    b, l, _ = hidden.shape
    conv_state, ssm_state = state
    weight, bias, A, D, dt_bias = mixer.constants()
    x, z = F.linear(hidden, mixer.in_proj.weight).chunk(2, dim=-1)  # (b, l, e)
    convolved = causal_conv1d(x, weight, bias, "silu", initial_state=conv_state)
    assert isinstance(convolved, Tensor)
    keep_inputs(x, conv_state, lengths)
    rank, n = mixer.dt_rank, mixer.d_state
    selected = torch.mm(convolved.flatten(0, 1), mixer.x_proj.weight.t())  # (b * l, r + 2n)
    dt = torch.mm(selected[:, :rank], mixer.dt_proj.weight.t()).view(b, l, -1)
    if padded is not None:
        dt.masked_fill_(padded[..., None], NO_STEP)
    B, C = selected.view(b, l, -1)[..., rank:].split(n, dim=-1)
    y, last = selective_scan(
        convolved, dt, A, B, C, D, z, dt_bias, dt_softplus=True,
        initial_state=ssm_state, return_last_state=True,
    )  # fmt: skip
    ssm_state.copy_(last)
    return torch.mm(y.flatten(0, 1), mixer.out_proj.weight.t())[None]
