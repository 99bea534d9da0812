"""The definition of every op, in plain PyTorch: each backend is tested against these functions.

Shapes: `b` batch, `l` sequence, `e` inner width, `n` state, `k` convolution width.
States are at least float32 whatever the inputs are; float64 inputs keep float64 throughout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def scan_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which a scan over inputs of `dtype` keeps its state: float64 stays, the rest is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def selective_scan_ref(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The selective scan, one position at a time (Mamba, arXiv 2312.00752, Algorithm 2).

    With delta = softplus(dt + dt_bias):  h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t,
    y_t = C_t h_t + D u_t, times silu(z_t) where z is given. B enters in the Euler form that every
    published Mamba checkpoint was trained with, not the zero-order hold of the VL-Mamba paper's Eq. 2.

    u, dt, z (b, l, e); A (e, n), negative; B, C (b, l, n); D, dt_bias (e,);
    initial_state (b, e, n); reset (b, l) bool: the state is zeroed before that position.
    Returns y (b, l, e) in u's dtype and the last state (b, e, n).
    """
    dtype = scan_dtype(u.dtype)
    b, l, e = u.shape
    uf, delta = u.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    Af, Bf, Cf = A.to(dtype), B.to(dtype), C.to(dtype)
    h = u.new_zeros((b, e, A.shape[1]), dtype=dtype)
    if initial_state is not None:
        h = initial_state.to(dtype)
    ys = []
    for t in range(l):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0.0)
        decay = torch.exp(delta[:, t, :, None] * Af)
        h = decay * h + (delta[:, t] * uf[:, t])[..., None] * Bf[:, t, None, :]  # (b, e, n)
        ys.append((h * Cf[:, t, None, :]).sum(-1))  # (b, e)
    y = torch.stack(ys, 1) if ys else torch.zeros_like(uf)  # (b, l, e)
    if D is not None:
        y = y + uf * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h


def scan_dynamics(A_log: Tensor, D: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parameters of a layer's dynamics -> A, D and dt_bias of `selective_scan_ref`, in float32 at least."""
    dtype = scan_dtype(A_log.dtype)
    return -torch.exp(A_log.to(dtype)), D.to(dtype), dt_bias.to(dtype)


def causal_conv1d_ref(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A depthwise convolution over the past: out_t = sum_j weight[:, j] x_{t-k+1+j} + bias, then SiLU if asked.

    x (b, l, e); weight (e, k); bias (e,); activation None or "silu";
    initial_state (b, e, k-1): the inputs before the first position, oldest first (zeros if absent);
    reset (b, l) bool: positions before a reset are not seen from it or after it.
    Returns out (b, l, e) in x's dtype and the last k-1 inputs (b, e, k-1), in x's dtype; inputs that a
    reset has cut off are zeros there.
    """
    dtype = scan_dtype(x.dtype)
    b, l, e = x.shape
    k = weight.shape[1]
    past = x.new_zeros((b, k - 1, e))
    if initial_state is not None:
        past = initial_state.to(x.dtype).transpose(1, 2)
    seen = torch.cat([past, x], 1)  # (b, k-1+l, e)
    segment = torch.zeros((b, k - 1 + l), dtype=torch.long, device=x.device)
    if reset is not None:
        segment[:, k - 1 :] = reset.long().cumsum(1)
    wide, wf = seen.to(dtype), weight.to(dtype)
    out = torch.zeros((b, l, e), dtype=dtype, device=x.device)
    for j in range(k):
        same = segment[:, j : j + l] == segment[:, k - 1 :]
        out = out + wide[:, j : j + l] * same[..., None] * wf[:, j]
    if bias is not None:
        out = out + bias.to(dtype)
    if activation == "silu":
        out = F.silu(out)
    alive = segment[:, l:] == segment[:, -1:]
    last = (seen[:, l:] * alive[..., None]).transpose(1, 2)  # (b, e, k-1)
    return out.to(x.dtype), last


def gated_conv1d_ref(
    xz: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`causal_conv1d_ref` of x where one tensor holds x and, beside it, the gate z.

    xz (b, l, 2e). Returns the output (b, l, e) once for each of its two readers, and z (b, l, e).
    """
    x, z = xz.chunk(2, dim=-1)
    out, _ = causal_conv1d_ref(
        x, weight, bias, activation, initial_state=initial_state, reset=reset
    )
    return out, out, z


def selective_state_update_ref(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """One step of the selective scan for decoding: `state` (b, e, n) is updated in place.

    x, dt, z (b, e); A (e, n); B, C (b, n); D, dt_bias (e,). Returns y (b, e) in x's dtype.
    """
    gate = None if z is None else z.unsqueeze(1)
    y, last = selective_scan_ref(
        x.unsqueeze(1), dt.unsqueeze(1), A, B.unsqueeze(1), C.unsqueeze(1), D, gate, dt_bias, dt_softplus,
        initial_state=state,
    )  # fmt: skip
    state.copy_(last)
    return y.squeeze(1)


def causal_conv1d_update_ref(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """One step of the causal convolution for decoding: `conv_state` (b, e, k-1) is updated in place.

    x (b, e); weight (e, k); bias (e,). Returns (b, e) in x's dtype.
    """
    out, last = causal_conv1d_ref(
        x.unsqueeze(1), weight, bias, activation, initial_state=conv_state
    )
    conv_state.copy_(last)
    return out.squeeze(1)


def add_rms_norm_ref(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The residual stream with `hidden` added, and its RMS norm (arXiv 1910.07467, Eq. 4).

    sum = residual + hidden,  normed = sum / sqrt(mean(sum^2) + eps) * weight.

    hidden, residual (.., d); residual None is zero; weight (d,). Returns normed (.., d) in `dtype`, and the
    sum (.., d), which is at least float32 like everything computed here.
    """
    wide = scan_dtype(hidden.dtype)
    total = hidden.to(wide) if residual is None else residual.to(wide) + hidden.to(wide)
    normed = F.rms_norm(total, weight.shape, weight.to(wide), eps)
    return normed.to(dtype), total


def linear_cross_entropy_ref(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of the logits `x @ weight.t()` with `targets`, summed over rows.

    x (t, d); weight (v, d); targets (t,), from 0 to v-1. Returns a scalar, in float32 at least.
    """
    logits = F.linear(x, weight)
    return F.cross_entropy(logits.to(scan_dtype(logits.dtype)), targets, reduction="sum")


# The names by which `vlmamba.ops` calls a backend.
selective_scan = selective_scan_ref
causal_conv1d = causal_conv1d_ref
gated_conv1d = gated_conv1d_ref
selective_state_update = selective_state_update_ref
causal_conv1d_update = causal_conv1d_update_ref
add_rms_norm = add_rms_norm_ref
linear_cross_entropy = linear_cross_entropy_ref
