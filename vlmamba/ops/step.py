"""One decoding step of the scan and of the convolution on a GPU, each one Triton kernel; states change in place."""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmamba.ops.activation import sigmoid, softplus
from vlmamba.ops.reference import scan_dtype

BLOCK_E = 32
OPTIONS = {"num_warps": 1, "enable_fp_fusion": True}
ACCUMULATE = {torch.float32: tl.float32, torch.float64: tl.float64}


@torch.no_grad()
def selective_state_update(
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
    """`reference.selective_state_update_ref` as one Triton kernel; `state` in place, no gradient."""
    b, e = x.shape
    n = A.shape[1]
    y = torch.empty((b, e), dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(e, BLOCK_E)
    if b * blocks:
        _selective_state_update_kernel[(b * blocks,)](
            state, x, dt, A, B, C, D, z, dt_bias, y,
            e, n, blocks,
            *state.stride(), *x.stride(), *dt.stride(), *A.stride(), *B.stride(), *C.stride(),
            *((0, 0) if z is None else z.stride()),
            dt_softplus, ACCUMULATE[scan_dtype(x.dtype)], BLOCK_E, triton.next_power_of_2(n),
            **OPTIONS,
        )  # fmt: skip
    return y


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """`reference.causal_conv1d_update_ref` as one Triton kernel; `conv_state` in place, no gradient."""
    b, e = x.shape
    k = weight.shape[1]
    out = torch.empty((b, e), dtype=x.dtype, device=x.device)
    blocks = triton.cdiv(e, BLOCK_E)
    if b * blocks:
        _causal_conv1d_update_kernel[(b * blocks,)](
            x, conv_state, weight, bias, out,
            e, blocks,
            *x.stride(), *conv_state.stride(), *weight.stride(),
            k, activation == "silu", ACCUMULATE[scan_dtype(x.dtype)],
            BLOCK_E, triton.next_power_of_2(k),
            **OPTIONS,
        )  # fmt: skip
    return out


@triton.jit
def _selective_state_update_kernel(
    state_ptr, x_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, y_ptr,
    e, n, blocks,
    state_b, state_e, state_n, x_b, x_e, dt_b, dt_e, A_e, A_n, B_b, B_n, C_b, C_n, z_b, z_e,
    SOFTPLUS: tl.constexpr, ACC: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    state = tl.arange(0, BLOCK_N)
    has_channel, has_state = channel < e, state < n
    tile = has_state[:, None] & has_channel[None, :]
    x = tl.load(x_ptr + row * x_b + channel * x_e, mask=has_channel, other=0.0).to(ACC)
    delta = tl.load(dt_ptr + row * dt_b + channel * dt_e, mask=has_channel, other=0.0).to(ACC)
    if bias_ptr is not None:
        delta += tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(ACC)
    if SOFTPLUS:
        delta = softplus(delta)
    A_at = A_ptr + channel[None, :] * A_e + state[:, None] * A_n
    A = tl.load(A_at, mask=tile, other=0.0).to(ACC)
    B = tl.load(B_ptr + row * B_b + state * B_n, mask=has_state, other=0.0).to(ACC)
    C = tl.load(C_ptr + row * C_b + state * C_n, mask=has_state, other=0.0).to(ACC)
    at = state_ptr + row * state_b + channel[None, :] * state_e + state[:, None] * state_n
    h = tl.load(at, mask=tile, other=0.0).to(ACC)
    h = tl.exp(delta[None, :] * A) * h + (delta * x)[None, :] * B[:, None]
    y = tl.sum(h * C[:, None], 0)
    if D_ptr is not None:
        y += tl.load(D_ptr + channel, mask=has_channel, other=0.0).to(ACC) * x
    if z_ptr is not None:
        z = tl.load(z_ptr + row * z_b + channel * z_e, mask=has_channel, other=0.0).to(ACC)
        y *= z * sigmoid(z)
    tl.store(y_ptr + row * e + channel, y, mask=has_channel)
    # Every lane has read its part of the state before any lane writes.
    tl.debug_barrier()
    tl.store(at, h, mask=tile)


@triton.jit
def _causal_conv1d_update_kernel(
    x_ptr, state_ptr, weight_ptr, bias_ptr, out_ptr,
    e, blocks,
    x_b, x_e, state_b, state_e, state_k, weight_e, weight_k,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    tap = tl.arange(0, BLOCK_K)
    has_channel = channel < e
    x = tl.load(x_ptr + row * x_b + channel * x_e, mask=has_channel, other=0.0).to(ACC)
    at = state_ptr + row * state_b + channel[None, :] * state_e + tap[:, None] * state_k
    past = (tap < K - 1)[:, None] & has_channel[None, :]
    # The k inputs seen from here: k-1 in the state, and x.
    taps = tl.load(at, mask=past, other=0.0).to(ACC)
    taps = tl.where((tap == K - 1)[:, None], x[None, :], taps)
    mask = (tap < K)[:, None] & has_channel[None, :]
    weights = weight_ptr + channel[None, :] * weight_e + tap[:, None] * weight_k
    out = tl.sum(taps * tl.load(weights, mask=mask, other=0.0).to(ACC), 0)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(ACC)
    if SILU:
        out *= sigmoid(out)
    tl.store(out_ptr + row * e + channel, out, mask=has_channel)
    # Every lane has read its part of the state before any lane writes.
    tl.debug_barrier()
    tl.store(at - state_k, taps, mask=mask & (tap > 0)[:, None])
