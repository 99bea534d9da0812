"""The causal depthwise convolution with SiLU on a GPU: one warp walks a run of positions of some channels.

Every input of a run is read once and lies in registers while the k outputs that see it are computed. The
backward pass computes the pre-activations anew instead of saving them; each program adds the gradients of weight
and bias over several runs and leaves float32 partial sums, which one deterministic second pass adds.
"""

# Kernels are written in Triton's language, which only looks like Python: its types are not Python's.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
# pyright: reportPossiblyUnboundVariable=false, reportGeneralTypeIssues=false, reportOperatorIssue=false
# pyright: reportOptionalMemberAccess=false, reportIncompatibleMethodOverride=false
# pyright: reportAssignmentType=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops import dependent_launch
from vlmamba.ops.last_inputs import last_inputs
from vlmamba.ops.partial_sums import summed
from vlmamba.ops.reference import scan_dtype

FORWARD_RUN, FORWARD_BLOCK_E = 16, 64
BACKWARD_RUN, BACKWARD_BLOCK_E = 4, 128
# The backward pass gives a program up to RUNS runs, as long as there are about so many programs: one warp each, and an
# H100 holds 2112 of them at once.
PROGRAMS, RUNS = 2048, 40
OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
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
    flags = None if reset is None else reset.contiguous().view(torch.uint8)
    inputs = x, weight, bias, initial_state
    seen = x if x.stride(-1) == 1 else x.contiguous()
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out = _CausalConv1d.apply(seen, weight, bias, initial_state, flags, activation == "silu")
    else:
        out = _forward(seen, weight, bias, initial_state, flags, activation == "silu")
    return out, last_inputs(x, weight.shape[1] - 1, initial_state, reset)


def gated_conv1d(
    xz: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.gated_conv1d_ref` as Triton kernels, whose backward pass writes one gradient for both halves."""
    flags = None if reset is None else reset.contiguous().view(torch.uint8)
    e, silu = weight.shape[0], activation == "silu"
    inputs = xz, weight, bias, initial_state
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        out, again, z = _GatedConv1d.apply(xz, weight, bias, initial_state, flags, silu)
    else:
        out = again = _forward(xz[..., :e], weight, bias, initial_state, flags, silu, early=True)
        z = xz[..., e:]
    return out, again, z


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, initial_state, reset, silu):
        ctx.save_for_backward(x, weight, bias, initial_state, reset)
        ctx.silu = silu
        return _forward(x, weight, bias, initial_state, reset, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, *others = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        return dx, *_backward([grad], dx, x, *others, ctx.silu), None, None


class _GatedConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, xz, weight, bias, initial_state, reset, silu):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(xz, weight, bias, initial_state, reset)
        ctx.silu = silu
        e = weight.shape[0]
        out = _forward(xz[..., :e], weight, bias, initial_state, reset, silu)
        return out, out.view_as(out), xz[..., e:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, other_grad, dz):
        xz, weight, bias, initial_state, reset = ctx.saved_tensors
        e = weight.shape[0]
        dxz = _wide(dz, xz)
        dx = dxz[..., :e]
        grads = [g for g in (grad, other_grad) if g is not None]
        if not grads:
            dx.zero_()
            return dxz, None, None, None, None, None
        others = _backward(grads, dx, xz[..., :e], weight, bias, initial_state, reset, ctx.silu)
        return dxz, *others, None, None


def _wide(dz: Tensor | None, xz: Tensor) -> Tensor:
    """A gradient for xz (b, l, 2e) that holds dz in its second half; without a copy where dz already lies in one."""
    b, l, width = xz.shape
    whole = (l * width, width, 1)
    if dz is not None and dz.storage_offset() == width // 2 and dz.stride() == whole:
        if dz.untyped_storage().nbytes() == xz.numel() * dz.element_size() and dz.dtype == xz.dtype:
            return dz.as_strided((b, l, width), whole, 0)
    dxz = torch.empty((b, l, width), dtype=xz.dtype, device=xz.device)
    second = dxz[..., width // 2 :]
    if dz is None:
        second.zero_()
    else:
        second.copy_(dz)
    return dxz


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    silu: bool,
    *,
    early: bool = False,
) -> Tensor:
    """`early`: the kernel starts while the one before it still runs, and waits for it."""
    b, l, e = x.shape
    out = torch.empty((b, l, e), dtype=x.dtype, device=x.device)
    runs, blocks = triton.cdiv(l, FORWARD_RUN), triton.cdiv(e, FORWARD_BLOCK_E)
    if b * runs * blocks:
        _causal_conv1d_fwd_kernel[(b * runs * blocks,)](
            x, weight, bias, initial_state, reset, out,
            l, e, runs, blocks,
            x.stride(0), x.stride(1), weight.stride(0), weight.stride(1), *_strides(initial_state),
            weight.shape[1], silu, ACCUMULATE[scan_dtype(x.dtype)], FORWARD_RUN, FORWARD_BLOCK_E,
            early and dependent_launch.starts_early(x),
            **dependent_launch.launch_options(x, early, **OPTIONS),
        )  # fmt: skip
    return out


def _backward(
    grads: list[Tensor],
    dx: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    silu: bool,
) -> tuple[Tensor | None, ...]:
    """Fills dx and returns the gradients of weight, bias and initial_state, each in its tensor's dtype.

    `grads`: one or two gradients of the output, to be added.
    """
    b, l, e = x.shape
    k = weight.shape[1]
    dtype = scan_dtype(x.dtype)
    grad, other = [*(g if g.stride(-1) == 1 else g.contiguous() for g in grads), None][:2]
    # A run of outputs gives the gradients of the inputs K-1 positions before it, so the runs go beyond the end.
    runs, blocks = triton.cdiv(l + k - 1, BACKWARD_RUN), triton.cdiv(e, BACKWARD_BLOCK_E)
    each = max(1, min(RUNS, b * runs * blocks // PROGRAMS))
    groups = triton.cdiv(runs, each)
    partial = torch.empty((b * groups, k + 1, e), dtype=dtype, device=x.device)
    dinitial = None if initial_state is None else torch.empty_like(initial_state)
    if b * groups * blocks:
        _causal_conv1d_bwd_kernel[(b * groups * blocks,)](
            grad, other, x, weight, bias, initial_state, reset, dx, partial, dinitial,
            l, e, groups, blocks, each, runs,
            *grad.stride()[:2], *(other.stride()[:2] if other is not None else (0, 0)),
            *x.stride()[:2], *dx.stride()[:2],
            weight.stride(0), weight.stride(1), *_strides(initial_state), *_strides(dinitial),
            k, silu, ACCUMULATE[dtype], BACKWARD_RUN, BACKWARD_BLOCK_E,
            **OPTIONS,
        )  # fmt: skip
    elif dinitial is not None:
        dinitial.zero_()
    return *summed(partial, weight, bias), dinitial


def _strides(state: Tensor | None) -> tuple[int, int, int]:
    return (0, 0, 0) if state is None else (state.stride(0), state.stride(1), state.stride(2))


@triton.jit
def _gate(x):
    """sigmoid(x) in few instructions: 1 / y as the reciprocal root of y^2, exact down to where it no longer counts."""
    y = 1.0 + tl.exp2(tl.minimum(x * -1.4426950408889634, 60.0))
    return tl.rsqrt(y * y)


@triton.jit
def _exists(channel, e, inside):
    """Which of the channels exist at a position: none if it lies outside the sequence."""
    return channel < tl.where(inside, e, 0)


@triton.jit
def _inputs(
    x_ptr, initial_ptr, first, channel, e, l, x_l, initial_e, initial_k,
    COUNT: tl.constexpr, BEFORE: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The inputs at COUNT positions from `first` on; the k-1 before the sequence stand in the initial state.

    Only the first BEFORE positions may lie before the sequence.
    """
    rows = ()
    x_ptr += first * x_l
    for i in tl.static_range(COUNT):
        at = first + i
        mask = _exists(channel, e, (at >= 0) & (at < l))
        row = tl.load(x_ptr + (i * x_l + channel), mask=mask, other=0.0)
        if initial_ptr is not None:
            if i < BEFORE:
                mask = _exists(channel, e, (at < 0) & (at >= 1 - K))
                before = initial_ptr + channel * initial_e + (at + K - 1) * initial_k
                row = row.to(ACC) + tl.load(before, mask=mask, other=0.0).to(ACC)
        rows += (row,)
    return rows


@triton.jit
def _resets(reset_ptr, first, l, COUNT: tl.constexpr):
    """Whether a sample begins at each of COUNT positions from `first` on.

    A position outside the sequence says what its nearest inside says, which changes nothing: what lies before
    the sequence is cut off by a reset at its first position, and nothing is computed behind it.
    """
    flags = ()
    for i in tl.static_range(COUNT):
        if reset_ptr is None:
            flags += (0,)
        else:
            at = tl.minimum(tl.maximum(first + i, 0), l - 1)
            flags += (tl.load(reset_ptr + at).to(tl.int32),)
    return flags


@triton.jit
def _taps(weight_ptr, channel, has_channel, weight_e, weight_k, K: tl.constexpr, ACC: tl.constexpr):
    taps = ()
    for j in tl.static_range(K):
        at = weight_ptr + channel * weight_e + j * weight_k
        taps += (tl.load(at, mask=has_channel, other=0.0).to(ACC),)
    return taps


@triton.jit
def _convolve(
    xs, taps, bias, flags, i: tl.constexpr, K: tl.constexpr, ACC: tl.constexpr, PACKED: tl.constexpr
):
    """The output that sees xs[i] .. xs[i + K - 1], before the activation, and the number of resets behind each tap."""
    out = bias + xs[i + K - 1].to(ACC) * taps[K - 1]
    cut = 0
    for back in tl.static_range(1, K):
        x = xs[i + K - 1 - back].to(ACC)
        if PACKED:
            cut += flags[i + K - back]
            x = tl.where(cut == 0, x, 0.0)
        out += x * taps[K - 1 - back]
    return out


@triton.jit
def _causal_conv1d_fwd_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, out_ptr,
    l, e, runs, blocks,
    x_b, x_l, weight_e, weight_k, initial_b, initial_e, initial_k,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr,
    RUN: tl.constexpr, BLOCK_E: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // (runs * blocks)).to(tl.int64)
    start = (tl.program_id(0) // blocks % runs).to(tl.int64) * RUN
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_channel = channel < e
    if initial_ptr is not None:
        initial_ptr += row * initial_b
    if reset_ptr is not None:
        reset_ptr += row * l
    PACKED: tl.constexpr = reset_ptr is not None
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    taps = _taps(weight_ptr, channel, has_channel, weight_e, weight_k, K, ACC)
    bias = tl.zeros((BLOCK_E,), ACC)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(ACC)
    xs = _inputs(
        x_ptr + row * x_b, initial_ptr, start - (K - 1), channel, e,
        l, x_l, initial_e, initial_k, RUN + K - 1, K - 1, K, ACC,
    )  # fmt: skip
    flags = _resets(reset_ptr, start - (K - 1), l, RUN + K - 1)
    out_ptr += (row * l + start) * e
    for i in tl.static_range(RUN):
        out = _convolve(xs, taps, bias, flags, i, K, ACC, PACKED)
        if SILU:
            out *= _gate(out)
        tl.store(out_ptr + (i * e + channel), out, mask=_exists(channel, e, start + i < l))


@triton.jit
def _causal_conv1d_bwd_kernel(
    grad_ptr, other_ptr, x_ptr, weight_ptr, bias_ptr, initial_ptr, reset_ptr, dx_ptr, partial_ptr, dinitial_ptr,
    l, e, groups, blocks, each, runs,
    grad_b, grad_l, other_b, other_l, x_b, x_l, dx_b, dx_l, weight_e, weight_k,
    initial_b, initial_e, initial_k, dinitial_b, dinitial_e, dinitial_k,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr,
    RUN: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // (groups * blocks)).to(tl.int64)
    group = tl.program_id(0) // blocks % groups
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    has_channel = channel < e
    x_ptr += row * x_b
    grad_ptr += row * grad_b
    dx_ptr += row * dx_b
    if other_ptr is not None:
        other_ptr += row * other_b
    if initial_ptr is not None:
        initial_ptr += row * initial_b
    if reset_ptr is not None:
        reset_ptr += row * l
    PACKED: tl.constexpr = reset_ptr is not None
    taps = _taps(weight_ptr, channel, has_channel, weight_e, weight_k, K, ACC)
    bias = tl.zeros((BLOCK_E,), ACC)
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + channel, mask=has_channel, other=0.0).to(ACC)
    dbias = tl.zeros((BLOCK_E,), ACC)
    dtaps = ()
    for _ in tl.static_range(K):
        dtaps += (tl.zeros((BLOCK_E,), ACC),)
    # Between runs the last K-1 inputs and gradients are carried on; those before the first run are computed here.
    start = (group * each).to(tl.int64) * RUN
    before = _inputs(
        x_ptr, initial_ptr, start - 2 * (K - 1), channel, e,
        l, x_l, initial_e, initial_k, 2 * (K - 1), 2 * (K - 1), K, ACC,
    )  # fmt: skip
    resets = _resets(reset_ptr, start - 2 * (K - 1), l, 2 * (K - 1))
    TWO: tl.constexpr = other_ptr is not None
    grads_before = _gradients(grad_ptr, start - (K - 1), channel, e, l, grad_l, K - 1)
    others_before = _gradients(other_ptr, start - (K - 1), channel, e, l, other_l, K - 1)
    last_xs, last_flags, last_gs = (), (), ()
    for i in tl.static_range(K - 1):
        g = _through(grads_before, others_before, TWO, before, taps, bias, resets, i, K, SILU, ACC, PACKED)  # fmt: skip
        last_gs += (g,)
        last_xs += (before[i + K - 1].to(ACC),)
        last_flags += (resets[i + K - 1],)
    for run in range(tl.minimum(each, runs - group * each)):
        first = start + run * RUN
        xs, flags, gs = last_xs, last_flags, last_gs
        new_xs = _inputs(x_ptr, None, first, channel, e, l, x_l, 0, 0, RUN, 0, K, ACC)
        new_flags = _resets(reset_ptr, first, l, RUN)
        # All of the run's before its first store, which the compiler would not let later loads overtake.
        grads = _gradients(grad_ptr, first, channel, e, l, grad_l, RUN)
        others = _gradients(other_ptr, first, channel, e, l, other_l, RUN)
        for i in tl.static_range(RUN):
            xs += (new_xs[i].to(ACC),)
            flags += (new_flags[i],)
        for i in tl.static_range(RUN):
            g = _through(grads, others, TWO, xs, taps, bias, flags, i, K, SILU, ACC, PACKED)
            gs += (g,)
            dbias += g
            sums = (dtaps[K - 1] + g * xs[i + K - 1],)
            cut = 0
            for back in tl.static_range(1, K):
                x = xs[i + K - 1 - back]
                if PACKED:
                    cut += flags[i + K - back]
                    x = tl.where(cut == 0, x, 0.0)
                sums = (dtaps[K - 1 - back] + g * x,) + sums  # noqa: RUF005, Triton knows no unpacking
            dtaps = sums
            # The input K-1 positions back is now seen by all the outputs that see it.
            dx = _spread(gs, taps, flags, i, K, PACKED)
            at = first + i - (K - 1)
            mask = _exists(channel, e, (at >= 0) & (at < l))
            tl.store(dx_ptr + at * dx_l + channel, dx, mask=mask)
            if dinitial_ptr is not None:
                if i < K - 1:
                    to = dinitial_ptr + row * dinitial_b + channel * dinitial_e
                    mask = _exists(channel, e, first + i < K - 1)
                    tl.store(to + (first + i) * dinitial_k, dx, mask=mask)
        last_xs, last_flags, last_gs = (), (), ()
        for i in tl.static_range(K - 1):
            last_xs += (xs[RUN + i],)
            last_flags += (flags[RUN + i],)
            last_gs += (gs[RUN + i],)
    slot = (row * groups + group) * (K + 1)
    for j in tl.static_range(K):
        tl.store(partial_ptr + (slot + j) * e + channel, dtaps[j], mask=has_channel)
    tl.store(partial_ptr + (slot + K) * e + channel, dbias, mask=has_channel)


@triton.jit
def _gradients(grad_ptr, first, channel, e, l, grad_l, COUNT: tl.constexpr):
    """The gradients of the outputs at COUNT positions from `first` on, 0 outside the sequence; none of no tensor."""
    rows = ()
    if grad_ptr is not None:
        grad_ptr += first * grad_l
        for i in tl.static_range(COUNT):
            mask = _exists(channel, e, (first + i >= 0) & (first + i < l))
            rows += (tl.load(grad_ptr + (i * grad_l + channel), mask=mask, other=0.0),)
    return rows


@triton.jit
def _through(
    grads, others, TWO: tl.constexpr, xs, taps, bias, flags, i: tl.constexpr,
    K: tl.constexpr, SILU: tl.constexpr, ACC: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """The gradient of output i, which sees xs[i] .. xs[i + K - 1], before its activation."""
    g = grads[i].to(ACC)
    if TWO:
        g += others[i].to(ACC)
    if SILU:
        out = _convolve(xs, taps, bias, flags, i, K, ACC, PACKED)
        gate = _gate(out)
        g *= gate * (1.0 + out * (1.0 - gate))
    return g


@triton.jit
def _spread(gs, taps, flags, i: tl.constexpr, K: tl.constexpr, PACKED: tl.constexpr):
    """The gradient of the input with index i: that of each of the K outputs which see it."""
    dx = gs[i] * taps[K - 1]
    cut = 0
    for ahead in tl.static_range(1, K):
        through = gs[i + ahead] * taps[K - 1 - ahead]
        if PACKED:
            cut += flags[i + ahead]
            through = tl.where(cut == 0, through, 0.0)
        dx += through
    return dx
