"""Reading many positions with few launches, for a language model whose layers are as they were built."""

import torch
from torch import Tensor

from vlmamba.mamba import NO_STEP, MambaBlock, MambaMixer, MambaModel
from vlmamba.ops import gated_conv1d
from vlmamba.ops.decode import add_norm, keep_inputs
from vlmamba.ops.gpu import scan_onwards
from vlmamba.ops.thin_linear import MOST_ROWS, Tile, num_splits, sum_partials, thin_linear
from vlmamba.state import State

# How the products of few positions, such as a question's, are cut; more go to cuBLAS.
IN_PROJ = Tile(64, 64, num_stages=5)
X_PROJ = Tile(64, 128, splits=20)
DT_PROJ = Tile(64, 32)
OUT_PROJ = Tile(64, 64, splits=4, num_stages=5)


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
        y = _mix(block.mixer, hidden.view(b, l, d), layer_state, lengths, padded)
        mixed = _add_product(residual, y, block.mixer.out_proj.weight)
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
    """A Mamba layer up to out_proj: hidden (b, l, d) -> y (b * l, e), `state` moved on in place."""
    b, l, _ = hidden.shape
    conv_state, ssm_state = state
    weight, bias, A, D, dt_bias = mixer.constants()
    xz = _product(hidden.flatten(0, 1), mixer.in_proj.weight, IN_PROJ)[0].view(b, l, -1)
    convolved, _, z = gated_conv1d(xz, weight, bias, "silu", initial_state=conv_state)
    keep_inputs(xz[..., : z.shape[2]], conv_state, lengths)
    rank, n = mixer.dt_rank, mixer.d_state
    selected = _product(convolved.flatten(0, 1), mixer.x_proj.weight, X_PROJ)
    selected = _sum(selected, hidden.dtype)  # (b * l, r + 2n)
    dt = _product(selected[:, :rank], mixer.dt_proj.weight, DT_PROJ)[0].view(b, l, -1)
    if padded is not None:
        dt.masked_fill_(padded[..., None], NO_STEP)
    B, C = selected.view(b, l, -1)[..., rank:].split(n, dim=-1)
    return scan_onwards(convolved, dt, A, B, C, D, z, dt_bias, ssm_state).flatten(0, 1)


def _add_product(residual: Tensor, y: Tensor, weight: Tensor) -> Tensor | None:
    """y (rows, k) times weight (n, k) transposed, as partial sums (splits, rows, n); None once `residual` holds it.

    Of many rows cuBLAS adds it there unrounded, which spares the norm two passes over memory.
    """
    if len(y) <= MOST_ROWS or not y.is_cuda:
        return _product(y, weight, OUT_PROJ)
    if y.dtype == residual.dtype:
        torch.addmm(residual, y, weight.t(), out=residual)
    else:
        torch.addmm(residual, y, weight.t(), out_dtype=residual.dtype, out=residual)
    return None


def _product(x: Tensor, weight: Tensor, tile: Tile) -> Tensor:
    """x (rows, k) times weight (n, k) transposed, as partial sums (splits, rows, n): one of them for many rows."""
    if len(x) > MOST_ROWS:
        return torch.mm(x, weight.t())[None]
    splits = num_splits(weight.shape[1], tile)
    dtype = x.dtype if splits == 1 else torch.float32
    out = torch.empty((splits, len(x), len(weight)), dtype=dtype, device=x.device)
    thin_linear(x, weight, out, tile)
    return out


def _sum(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of partials (splits, rows, n)."""
    if len(partials) == 1:
        return partials[0]
    out = torch.empty(partials.shape[1:], dtype=dtype, device=partials.device)
    sum_partials(partials, out)
    return out
