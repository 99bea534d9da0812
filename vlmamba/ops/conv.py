"""The causal depthwise convolution with SiLU on a GPU: a Triton kernel each way over tiles of positions x channels.

The backward pass computes the pre-activations anew instead of saving them; the sums over positions (weight,
bias) are float32 partial sums, one slot a tile, added by one deterministic second pass.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.activation import sigmoid
from vlmamba.ops.reference import scan_dtype

BLOCK_L = 8
BLOCK_E = 128
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
ACCUMULATE = {torch.float32: tl.float32, torch.float64: tl.float64}


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.causal_conv1d_ref` as Triton kernels, differentiable once in every tensor argument."""
    # Which run of positions between two resets each position belongs to: only its own past is seen.
    segment = None if reset is None else reset.cumsum(1, dtype=torch.int32)  # (b, l)
    inputs = x, weight, bias, initial_state
    seen = x if x.stride(-1) == 1 else x.contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out = _CausalConv1d.apply(seen, weight, bias, initial_state, segment, activation == "silu")
    else:
        out = _forward(seen, weight, bias, initial_state, segment, activation == "silu")
    return out, _last_inputs(x, weight.shape[1] - 1, initial_state, segment)


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, initial_state, segment, silu):
        ctx.save_for_backward(x, weight, bias, initial_state, segment)
        ctx.silu = silu
        return _forward(x, weight, bias, initial_state, segment, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return *_backward(grad, *ctx.saved_tensors, ctx.silu), None, None


def _last_inputs(
    x: Tensor, width: int, initial_state: Tensor | None, segment: Tensor | None
) -> Tensor:
    """The last `width` inputs (b, e, width), oldest first; zeros before the start or a reset."""
    b, l, e = x.shape
    last = x[:, max(l - width, 0) :].transpose(1, 2)  # (b, e, at most width)
    if segment is not None and l:
        alive = segment[:, max(l - width, 0) :] == segment[:, -1:]
        last = last * alive[:, None]
    missing = width - last.shape[2]
    if not missing:
        return last.clone(memory_format=torch.contiguous_format)
    if initial_state is None:
        return torch.cat([last.new_zeros((b, e, missing)), last], 2)
    before = initial_state.to(x.dtype)[..., width - missing :]
    if segment is not None and l:
        before = before * (segment[:, -1:] == 0)[:, None]
    return torch.cat([before, last], 2)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    segment: Tensor | None,
    silu: bool,
) -> Tensor:
    b, l, e = x.shape
    out = torch.empty((b, l, e), dtype=x.dtype, device=x.device)
    tiles, blocks = triton.cdiv(l, BLOCK_L), triton.cdiv(e, BLOCK_E)
    if b * tiles * blocks:
        _causal_conv1d_fwd_kernel[(b * tiles * blocks,)](
            x, weight, bias, initial_state, segment, out,
            l, e, tiles, blocks,
            x.stride(0), x.stride(1), weight.stride(0), weight.stride(1), *_strides(initial_state),
            weight.shape[1], silu, ACCUMULATE[scan_dtype(x.dtype)], BLOCK_L, BLOCK_E,
            **OPTIONS,
        )  # fmt: skip
    return out


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    segment: Tensor | None,
    silu: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of x, weight, bias and initial_state, each in its tensor's dtype."""
    b, l, e = x.shape
    k = weight.shape[1]
    dtype = scan_dtype(x.dtype)
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    # The tiles cover what is seen: k-1 positions before the sequence, then the sequence.
    tiles, blocks = triton.cdiv(k - 1 + l, BLOCK_L), triton.cdiv(e, BLOCK_E)
    dx = torch.empty((b, l, e), dtype=x.dtype, device=x.device)
    dweight = torch.empty((b * tiles, k, e), dtype=dtype, device=x.device)
    dbias = None if bias is None else torch.empty((b * tiles, e), dtype=dtype, device=x.device)
    dinitial = None if initial_state is None else torch.empty_like(initial_state)
    if b * tiles * blocks:
        _causal_conv1d_bwd_kernel[(b * tiles * blocks,)](
            grad, x, weight, bias, initial_state, segment, dx, dweight, dbias, dinitial,
            l, e, tiles, blocks,
            grad.stride(0), grad.stride(1), x.stride(0), x.stride(1),
            weight.stride(0), weight.stride(1), *_strides(initial_state), *_strides(dinitial),
            k, silu, ACCUMULATE[dtype], BLOCK_L, BLOCK_E,
            **OPTIONS,
        )  # fmt: skip
    return (
        dx,
        dweight.sum(0).t().to(weight.dtype),  # (e, k)
        None if bias is None or dbias is None else dbias.sum(0).to(bias.dtype),
        dinitial,
    )


def _strides(state: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if state is None else (state.stride(0), state.stride(1), state.stride(2))


@triton.jit
def _taps(
    x_ptr, initial_ptr, at, channel, has_channel, l, x_l, initial_e, initial_k,
    K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The inputs at positions `at`, of which the k-1 before the sequence stand in the initial state."""
    inside = (at >= 0) & (at < l)
    mask = inside[:, None] & has_channel[None, :]
    taps = tl.load(x_ptr + at[:, None] * x_l + channel[None, :], mask=mask, other=0.0).to(ACC)
    if initial_ptr is not None:
        mask = ((at < 0) & (at >= 1 - K))[:, None] & has_channel[None, :]
        pointers = initial_ptr + channel[None, :] * initial_e + (at[:, None] + K - 1) * initial_k
        taps += tl.load(pointers, mask=mask, other=0.0).to(ACC)
    return taps


@triton.jit
def _segments(segment_ptr, at, l):
    """The segment of each position; the inputs before the sequence belong to segment 0."""
    return tl.load(segment_ptr + at, mask=(at >= 0) & (at < l), other=0)


@triton.jit
def _convolve(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, segment_ptr, at, channel, has_channel,
    l, x_l, weight_e, weight_k, initial_e, initial_k,
    K: tl.constexpr, ACC: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The convolution at positions `at` (BLOCK_L, BLOCK_E), before the activation."""
    out = tl.zeros((BLOCK_L, BLOCK_E), ACC)
    for j in tl.static_range(K):
        past = at - (K - 1) + j
        taps = _taps(
            x_ptr, initial_ptr, past, channel, has_channel, l, x_l, initial_e, initial_k, K, ACC
        )
        if segment_ptr is not None:
            same = _segments(segment_ptr, past, l) == _segments(segment_ptr, at, l)
            taps = tl.where(same[:, None], taps, 0.0)
        weights = weight_ptr + channel * weight_e + j * weight_k
        out += taps * tl.load(weights, mask=has_channel, other=0.0).to(ACC)[None, :]
    if bias_ptr is not None:
        out += tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(ACC)[None, :]
    return out


@triton.jit
def _causal_conv1d_fwd_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, segment_ptr, out_ptr,
    l, e, tiles, blocks,
    x_b, x_l, weight_e, weight_k, initial_b, initial_e, initial_k,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // (tiles * blocks)).to(tl.int64)
    at = (tl.program_id(0) // blocks % tiles).to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L)
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_channel = channel < e
    x_ptr += row * x_b
    if initial_ptr is not None:
        initial_ptr += row * initial_b
    if segment_ptr is not None:
        segment_ptr += row * l
    out = _convolve(
        x_ptr, weight_ptr, bias_ptr, initial_ptr, segment_ptr, at, channel, has_channel,
        l, x_l, weight_e, weight_k, initial_e, initial_k, K, ACC, BLOCK_L, BLOCK_E,
    )  # fmt: skip
    if SILU:
        out *= sigmoid(out)
    mask = (at < l)[:, None] & has_channel[None, :]
    tl.store(out_ptr + (row * l + at)[:, None] * e + channel[None, :], out, mask=mask)


@triton.jit
def _causal_conv1d_bwd_kernel(
    grad_ptr, x_ptr, weight_ptr, bias_ptr, initial_ptr, segment_ptr,
    dx_ptr, dweight_ptr, dbias_ptr, dinitial_ptr,
    l, e, tiles, blocks,
    grad_b, grad_l, x_b, x_l, weight_e, weight_k, initial_b, initial_e, initial_k,
    dinitial_b, dinitial_e, dinitial_k,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // (tiles * blocks)).to(tl.int64)
    tile = tl.program_id(0) // blocks % tiles
    at = tile.to(tl.int64) * BLOCK_L + tl.arange(0, BLOCK_L) - (K - 1)
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_channel = channel < e
    x_ptr += row * x_b
    if initial_ptr is not None:
        initial_ptr += row * initial_b
    if segment_ptr is not None:
        segment_ptr += row * l
    slot = row * tiles + tile
    dx = tl.zeros((BLOCK_L, BLOCK_E), ACC)
    # An input reaches the outputs at its own position and the K-1 after it.
    for ahead in tl.static_range(K):
        to = at + ahead
        inside = (to >= 0) & (to < l)
        mask = inside[:, None] & has_channel[None, :]
        grad_at = grad_ptr + row * grad_b + to[:, None] * grad_l + channel[None, :]
        g = tl.load(grad_at, mask=mask, other=0.0).to(ACC)
        if SILU:
            out = _convolve(
                x_ptr, weight_ptr, bias_ptr, initial_ptr, segment_ptr, to, channel, has_channel,
                l, x_l, weight_e, weight_k, initial_e, initial_k, K, ACC, BLOCK_L, BLOCK_E,
            )  # fmt: skip
            gate = sigmoid(out)
            g *= gate * (1.0 + out * (1.0 - gate))
        weights = weight_ptr + channel * weight_e + (K - 1 - ahead) * weight_k
        weight = tl.load(weights, mask=has_channel, other=0.0).to(ACC)
        through = g
        if segment_ptr is not None:
            same = _segments(segment_ptr, to, l) == _segments(segment_ptr, at, l)
            through = tl.where(same[:, None], g, 0.0)
        dx += through * weight[None, :]
        # This tile's share of the weight's gradient: its inputs, met by the outputs `ahead` of them.
        taps = _taps(
            x_ptr, initial_ptr, at, channel, has_channel, l, x_l, initial_e, initial_k, K, ACC
        )
        dweight_at = dweight_ptr + (slot * K + (K - 1 - ahead)) * e + channel
        tl.store(dweight_at, tl.sum(through * taps, 0), mask=has_channel)
        if ahead == 0:
            if dbias_ptr is not None:
                tl.store(dbias_ptr + slot * e + channel, tl.sum(g, 0), mask=has_channel)
    mask = ((at >= 0) & (at < l))[:, None] & has_channel[None, :]
    tl.store(dx_ptr + (row * l + at)[:, None] * e + channel[None, :], dx, mask=mask)
    if dinitial_ptr is not None:
        mask = (at < 0)[:, None] & has_channel[None, :]
        pointers = dinitial_ptr + row * dinitial_b + channel[None, :] * dinitial_e
        tl.store(pointers + (at[:, None] + K - 1) * dinitial_k, dx, mask=mask)
