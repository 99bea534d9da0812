"""What a decoding step of a Mamba layer does on a GPU between its large products: a few Triton kernels.

At small batch a step is the time in which its weights come from memory, so the kernels are cut to keep memory
busy: each asks for its states and weights before it waits for the kernel that makes its input
(`dependent_launch.py`). A row's numbers do not depend on its neighbours.

Letters: b rows, d model width, e inner width, n state, k convolution width, r rank of dt.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from vlmamba.ops import dependent_launch
from vlmamba.ops.activation import sigmoid, softplus
from vlmamba.ops.thin_linear import LEAST_ROWS, dot

LOG2E = tl.constexpr(1.4426950408889634)


@torch.no_grad()
def add_norm(
    residual: Tensor,
    partials: Tensor | None,
    weight: Tensor,
    eps: float,
    out: Tensor,
    tokens: Tensor | None = None,
    embeddings: Tensor | None = None,
) -> None:
    """residual (b, d) float32 += the sum of partials (splits, b, d); out (b, d) = its RMSNorm, in out's dtype.

    With `tokens` (b,) the residual is what `embeddings` (v, d) hold for them, and the launch waits for all before it.
    """
    b, d = residual.shape
    starts = tokens is not None
    _add_norm_kernel[(b,)](
        residual, partials, weight, out, tokens, embeddings,
        b, d, eps, 0 if partials is None else partials.shape[0],
        triton.next_power_of_2(d), dependent_launch.starts_early(residual) and not starts,
        **dependent_launch.launch_options(residual, not starts, num_warps=8),
    )  # fmt: skip


@torch.no_grad()
def conv_select(
    xz: Tensor,
    conv_state: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    weight: Tensor,
    partials: Tensor,
    rows: int = 1,
    block_n: int = 64,
    num_warps: int = 4,
) -> None:
    """x_proj of the convolved x, in partial sums: xz (b, 2e), weight (r + 2n, e) -> partials (splits, b, r + 2n).

    conv_state (b, e, k-1) is read, not moved on: `ssm_step` does that. `rows` a program takes: 1 or 16.
    """
    b, e = xz.shape[0], weight.shape[1]
    outputs = weight.shape[0]
    splits = partials.shape[0]
    block_k = max(triton.next_power_of_2(triton.cdiv(e, splits)), LEAST_ROWS)
    programs = triton.cdiv(outputs, block_n) * splits
    _conv_select_kernel[(programs, triton.cdiv(b, rows))](
        xz, conv_state, conv_weight, conv_bias, weight, partials,
        b, e, outputs, splits, xz.stride(0), *conv_state.stride(), *conv_weight.stride(),
        weight.stride(0),
        conv_weight.shape[1], block_n, block_k, rows, dependent_launch.starts_early(xz),
        **dependent_launch.launch_options(xz, num_warps=num_warps),
    )  # fmt: skip


@torch.no_grad()
def ssm_step(
    xz: Tensor,
    before: tuple[Tensor, Tensor],
    after: tuple[Tensor, Tensor],
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    selected: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    out: Tensor,
    block_e: int = 32,
    rows: int = 1,
    num_warps: int = 4,
    dt: Tensor | None = None,
) -> None:
    """The rest of a step between the projections: out (b, e), gated, and the states after the step.

    xz (b, 2e); before, after: conv_state (b, e, k-1) and ssm_state (b, e, n) float32, in other memory after than
    before, strides alike; selected (b, r + 2n), or (splits, b, r + 2n) whose sum it is; dt_weight (e, r);
    dt_bias, D (e,); A_log (e, n); dt (b, e) where dt_proj has been applied already. `rows` a program takes: a
    power of two.
    """
    conv_state, ssm_state = before
    b, e, n = ssm_state.shape
    rank = dt_weight.shape[1]
    programs = triton.cdiv(e, block_e)
    _ssm_step_kernel[(programs, triton.cdiv(b, rows))](
        dt, xz, conv_state, ssm_state, *after, conv_weight, conv_bias, selected, dt_weight, dt_bias, A_log, D, out,
        b, e, rank, n, xz.stride(0), *conv_state.stride(), *ssm_state.stride(), *conv_weight.stride(),
        dt_weight.stride(0), A_log.stride(0),
        conv_weight.shape[1], triton.next_power_of_2(n), block_e, rows,
        triton.next_power_of_2(rank), dependent_launch.starts_early(xz),
        **dependent_launch.launch_options(xz, num_warps=num_warps),
    )  # fmt: skip


@torch.no_grad()
def keep_inputs(x: Tensor, conv_state: Tensor, lengths: Tensor | None) -> None:
    """conv_state (b, e, k-1) becomes the last inputs of x (b, l, e), before each row's padding begins at `lengths`."""
    b, l, e = x.shape
    width, block = conv_state.shape[2], 128
    if width:
        _keep_inputs_kernel[(triton.cdiv(e, block), b)](
            x, conv_state, lengths, l, e, *x.stride(), *conv_state.stride(),
            width, block, triton.next_power_of_2(width), dependent_launch.starts_early(x),
            **dependent_launch.launch_options(x, num_warps=4),
        )  # fmt: skip


@triton.jit
def _add_norm_kernel(
    residual_ptr, partials_ptr, weight_ptr, out_ptr, tokens_ptr, embeddings_ptr,
    b, d, eps,
    SPLITS: tl.constexpr, BLOCK_D: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK_D)
    mask = at < d
    weight = tl.load(weight_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if tokens_ptr is not None:
        token = tl.load(tokens_ptr + row).to(tl.int64)
        x = tl.load(embeddings_ptr + token * d + at, mask=mask, other=0.0).to(tl.float32)
    else:
        x = tl.load(residual_ptr + row * d + at, mask=mask, other=0.0)
    if SPLITS > 0:
        mixed = tl.load(partials_ptr + row * d + at, mask=mask, other=0.0).to(tl.float32)
        for split in tl.static_range(1, SPLITS):
            mixed += tl.load(partials_ptr + (split * b + row) * d + at, mask=mask, other=0.0)
        # A matrix product hands on its result in the model's dtype.
        x += mixed.to(out_ptr.dtype.element_ty).to(tl.float32)
    if SPLITS > 0 or tokens_ptr is not None:
        tl.store(residual_ptr + row * d + at, x, mask=mask)
    scale = tl.rsqrt(tl.sum(x * x, 0) / d + eps)
    tl.store(out_ptr + row * d + at, x * scale * weight, mask=mask)


@triton.jit
def _past_inputs(
    state_ptr, weight_ptr, bias_ptr, row, channel, mask, has_channel,
    state_b, state_e, state_k, weight_e, weight_k, K: tl.constexpr,
):  # fmt: skip
    """What the inputs before the newest add to the convolution, for rows and channels of any one shape."""
    out = tl.zeros_like(mask).to(tl.float32)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)
    for j in tl.static_range(K - 1):
        at = state_ptr + row * state_b + channel * state_e + j * state_k
        tap = tl.load(at, mask=mask, other=0.0)
        weight = tl.load(
            weight_ptr + channel * weight_e + j * weight_k, mask=has_channel, other=0.0
        )
        out += tap.to(tl.float32) * weight.to(tl.float32)
    return out


@triton.jit
def _convolved(past, x, weight):
    """silu of the convolution at the newest input, in that input's dtype."""
    out = past + x.to(tl.float32) * weight
    return (out * sigmoid(out)).to(x.dtype)


@triton.jit
def _conv_select_kernel(
    xz_ptr, state_ptr, conv_ptr, bias_ptr, weight_ptr, out_ptr,
    b, e, n, splits, xz_b, state_b, state_e, state_k, conv_e, conv_k, weight_n,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    ROWS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    output = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, 16)
    out_row = tl.program_id(1) * ROWS + column
    channel = split * BLOCK_K + tl.arange(0, BLOCK_K)
    has_output, has_row, has_channel = output < n, row < b, channel < e
    mask = has_channel[:, None] & has_row[None, :]
    # The weights and the state are nobody's output in this step: no need to wait for them.
    w = tl.load(
        weight_ptr + output[:, None] * weight_n + channel[None, :],
        mask=has_output[:, None] & has_channel[None, :], other=0.0,
    )  # fmt: skip
    past = _past_inputs(
        state_ptr, conv_ptr, bias_ptr, row[None, :], channel[:, None], mask, has_channel[:, None],
        state_b, state_e, state_k, conv_e, conv_k, K,
    )  # fmt: skip
    newest = conv_ptr + channel[:, None] * conv_e + (K - 1) * conv_k
    newest = tl.load(newest, mask=has_channel[:, None], other=0.0).to(tl.float32)
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    x = tl.load(xz_ptr + row[None, :] * xz_b + channel[:, None], mask=mask, other=0.0)
    x = _convolved(past, x, newest)
    if ROWS == 1:  # the other columns of the product are zeros
        x = tl.where(column[None, :] == 0, x, tl.zeros_like(x))
    total = dot(w, x, tl.zeros((BLOCK_N, 16), tl.float32))
    pointers = out_ptr + (split * b + out_row[None, :]) * n + output[:, None]
    has_out_row = (column < ROWS) & (out_row < b)
    tl.store(pointers, total, mask=has_output[:, None] & has_out_row[None, :])


@triton.jit
def _ssm_step_kernel(
    dt_ptr, xz_ptr, conv_state_ptr, ssm_state_ptr, conv_after_ptr, ssm_after_ptr, conv_ptr, conv_bias_ptr, selected_ptr,
    dt_weight_ptr, dt_bias_ptr, A_log_ptr, D_ptr, out_ptr,
    b, e, rank, n, xz_b, cs_b, cs_e, cs_k, ss_b, ss_e, ss_n, conv_e, conv_k, dt_e, A_e,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_R: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    dtype: tl.constexpr = xz_ptr.dtype.element_ty
    channel = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    row = (tl.program_id(1) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    state = tl.arange(0, BLOCK_N)
    has_channel, has_row, has_state = channel < e, row < b, state < n
    mask = has_row[:, None] & has_channel[None, :]
    tile = mask[:, :, None] & has_state[None, None, :]
    # The states and the weights are nobody's output in this step: no need to wait for them.
    states = row[:, None, None] * ss_b + channel[None, :, None] * ss_e + state[None, None, :] * ss_n
    h = tl.load(ssm_state_ptr + states, mask=tile, other=0.0)
    A_mask = has_channel[:, None] & has_state[None, :]
    A_log = tl.load(A_log_ptr + channel[:, None] * A_e + state[None, :], mask=A_mask, other=0.0)
    A2 = -tl.exp(A_log.to(tl.float32)) * LOG2E
    D = tl.load(D_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)
    dt_bias = tl.load(dt_bias_ptr + channel, mask=has_channel, other=0.0).to(tl.float32)
    if dt_ptr is None:
        place = tl.arange(0, BLOCK_R)
        has_place = place < rank
        dt_weight = tl.load(
            dt_weight_ptr + channel[:, None] * dt_e + place[None, :],
            mask=has_channel[:, None] & has_place[None, :], other=0.0,
        )  # fmt: skip
    past = _past_inputs(
        conv_state_ptr, conv_ptr, conv_bias_ptr, row[:, None], channel[None, :], mask, has_channel[None, :],
        cs_b, cs_e, cs_k, conv_e, conv_k, K,
    )  # fmt: skip
    newest = conv_ptr + channel[None, :] * conv_e + (K - 1) * conv_k
    newest = tl.load(newest, mask=has_channel[None, :], other=0.0).to(tl.float32)
    taps = row[:, None] * cs_b + channel[None, :] * cs_e
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    xs = xz_ptr + row[:, None] * xz_b + channel[None, :]
    x = tl.load(xs, mask=mask, other=0.0)
    z = tl.load(xs + e, mask=mask, other=0.0).to(tl.float32)
    width = rank + 2 * n
    pair = has_row[:, None] & has_state[None, :]
    pairs = selected_ptr + row[:, None] * width + rank + state[None, :]
    B = tl.load(pairs, mask=pair, other=0.0).to(tl.float32)
    C = tl.load(pairs + n, mask=pair, other=0.0).to(tl.float32)
    if dt_ptr is None:
        dt = tl.zeros((ROWS, BLOCK_E), tl.float32)
        for i in tl.static_range(ROWS):
            one = tl.program_id(1) * ROWS + i
            has_low = place < tl.where(one < b, rank, 0)
            low = tl.load(selected_ptr + one * width + place, mask=has_low, other=0.0)
            product = dt_weight.to(tl.float32) * low.to(tl.float32)[None, :]
            mine = (tl.arange(0, ROWS) == i)[:, None]
            dt = tl.where(mine, tl.sum(product, 1)[None, :], dt)
    else:
        dt = tl.load(dt_ptr + row[:, None] * e + channel[None, :], mask=mask, other=0.0)
    # dt_proj hands on its result in the model's dtype.
    delta = softplus(dt.to(dtype).to(tl.float32) + dt_bias[None, :])  # (rows, channels)
    u = _convolved(past, x, newest).to(tl.float32)
    # Which of the two products is rounded is said, so that it is the same one however a plan cuts the rows.
    h = tl.fma(
        tl.exp2(delta[:, :, None] * A2[None, :, :]), h, (delta * u)[:, :, None] * B[:, None, :]
    )
    y = tl.sum(h * C[:, None, :], 2) + D[None, :] * u
    tl.store(out_ptr + row[:, None] * e + channel[None, :], y * z * sigmoid(z), mask=mask)
    tl.store(ssm_after_ptr + states, h, mask=tile)
    for j in tl.static_range(K - 2):
        tap = tl.load(conv_state_ptr + taps + (j + 1) * cs_k, mask=mask, other=0.0)
        tl.store(conv_after_ptr + taps + j * cs_k, tap, mask=mask)
    if K > 1:
        tl.store(conv_after_ptr + taps + (K - 2) * cs_k, x, mask=mask)


@triton.jit
def _keep_inputs_kernel(
    x_ptr, state_ptr, lengths_ptr, l, e, x_b, x_l, x_e, state_b, state_e, state_k,
    WIDTH: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        tl.extra.cuda.gdc_wait()
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    tap = tl.arange(0, BLOCK_K)
    length = l
    if lengths_ptr is not None:
        length = tl.load(lengths_ptr + row).to(tl.int32)
    mask = (channel < e)[:, None] & (tap < WIDTH)[None, :]
    at = length - WIDTH + tap  # the position whose input each tap becomes
    states = state_ptr + row * state_b + channel[:, None] * state_e
    inputs = x_ptr + row * x_b + at[None, :].to(tl.int64) * x_l + channel[:, None] * x_e
    new = tl.load(inputs, mask=mask & (at >= 0)[None, :], other=0.0)
    # Before the first position stands what was kept of the inputs before it.
    old_at = states + (at + WIDTH)[None, :] * state_k
    old = tl.load(old_at, mask=mask & (at < 0)[None, :], other=0.0).to(new.dtype)
    kept = tl.where((at >= 0)[None, :], new, old)
    # Every lane has read its part of the state before any lane writes.
    tl.debug_barrier()
    tl.store(states + tap[None, :] * state_k, kept, mask=mask)
