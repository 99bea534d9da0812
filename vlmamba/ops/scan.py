"""The selective scan on a GPU: a Triton kernel each way, one thread a channel with all its states in registers.

A program owns one sequence and 32 channels and walks the positions in order, so the sum over states is the
thread's own. The forward pass saves the state every CHUNK positions. The backward pass takes the chunks from
the last to the first: it walks a chunk forward once, saving the state every GROUP positions in a scratch that
only this program touches, then takes the groups from the last to the first, their states kept in registers.
Sums over channels (B, C) and over the batch (A, D, dt_bias) are float32 partial sums, one slot a program, added
by one deterministic second pass: no atomics, the same bits every run.
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

from vlmamba.ops.activation import sigmoid, softplus
from vlmamba.ops.reference import scan_dtype

CHUNK = 32
FORWARD_GROUP = 4
BACKWARD_GROUP = 2
# One warp, one channel a lane: no barrier between warps, and 16 states fit in the registers.
BLOCK_E = 32
OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


def selective_scan(
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
    """`reference.selective_scan_ref` as Triton kernels, differentiable once in every tensor argument."""
    inputs = [u, dt, A, B, C, D, z, dt_bias, initial_state]
    unit = [_unit_stride(t) for t in inputs]
    flags = None if reset is None else reset.contiguous().view(torch.uint8)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _SelectiveScan.apply(*unit, flags, dt_softplus)
    y, last, _ = _forward(*unit, flags, dt_softplus, save=False)
    return y, last


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, dt, A, B, C, D, z, dt_bias, initial_state, reset, dt_softplus):
        ctx.set_materialize_grads(False)
        y, last, saved = _forward(
            u, dt, A, B, C, D, z, dt_bias, initial_state, reset, dt_softplus, save=True
        )
        ctx.save_for_backward(u, dt, A, B, C, D, z, dt_bias, initial_state, reset, saved)
        ctx.dt_softplus = dt_softplus
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        if grad_y is None and grad_last is None:
            return (None,) * 11
        return *_backward(grad_y, grad_last, *ctx.saved_tensors, ctx.dt_softplus), None, None


def _forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    dt_softplus: bool,
    *,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """y, the last state, and with `save` the states at the chunks' starts, program by program."""
    b, l, e = u.shape
    n = A.shape[1]
    dtype = scan_dtype(u.dtype)
    y = torch.empty((b, l, e), dtype=u.dtype, device=u.device)
    last = torch.empty((b, n, e), dtype=dtype, device=u.device)
    blocks = triton.cdiv(e, BLOCK_E)
    shape = (b * blocks, triton.cdiv(l, CHUNK), triton.next_power_of_2(n), BLOCK_E)
    saved = torch.empty(shape, dtype=dtype, device=u.device) if save else None
    if b * blocks:
        _selective_scan_fwd_kernel[(b * blocks,)](
            u, dt, _by_state(A), B, C, D, z, dt_bias, _by_state(initial_state), reset, y, last, saved,
            l, e, blocks, 0,
            *_steps(u), *_steps(dt), *_steps(B), *_steps(C), *_steps(z),
            dt_softplus, CHUNK, FORWARD_GROUP, n, BLOCK_E, triton.next_power_of_2(n),
            **OPTIONS,
        )  # fmt: skip
    return y, last.mT, saved  # last (b, e, n)


def _backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_state: Tensor | None,
    reset: Tensor | None,
    saved: Tensor,
    dt_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, dt, A, B, C, D, z, dt_bias and initial_state, each in its tensor's dtype."""
    b, l, e = u.shape
    n = A.shape[1]
    blocks = triton.cdiv(e, BLOCK_E)
    grad_y = torch.zeros_like(u) if grad_y is None else _unit_stride(grad_y)

    def new(*shape: int, like: Tensor | None = saved, dtype: torch.dtype = saved.dtype):
        return None if like is None else torch.empty(shape, dtype=dtype, device=u.device)

    du, ddt = (torch.empty((b, l, e), dtype=t.dtype, device=u.device) for t in (u, dt))
    dz = None if z is None else new(b, l, e, dtype=z.dtype)
    dA, dD, dbias = new(b, n, e), new(b, e, like=D), new(b, e, like=dt_bias)
    dB, dC = new(blocks, b, l, n), new(blocks, b, l, n)
    dinitial = new(b, n, e, like=initial_state)
    scratch = new(b * blocks, CHUNK // BACKWARD_GROUP, triton.next_power_of_2(n), BLOCK_E)
    if b * blocks:
        _selective_scan_bwd_kernel[(b * blocks,)](
            grad_y, _by_state(grad_last), u, dt, _by_state(A), B, C, D, z, dt_bias, reset, saved, scratch,
            du, ddt, dA, dB, dC, dD, dz, dbias, dinitial,
            b, l, e, blocks, 0,
            *_steps(grad_y), *_steps(u), *_steps(dt), *_steps(B), *_steps(C), *_steps(z),
            dt_softplus, CHUNK, BACKWARD_GROUP, n, BLOCK_E, triton.next_power_of_2(n),
            **OPTIONS,
        )  # fmt: skip
    return (
        du,
        ddt,
        dA.sum(0).t().to(A.dtype),  # (e, n)
        dB.sum(0).to(B.dtype),  # (b, l, n)
        dC.sum(0).to(C.dtype),
        None if D is None else dD.sum(0).to(D.dtype),
        dz,
        None if dt_bias is None else dbias.sum(0).to(dt_bias.dtype),
        None if initial_state is None else dinitial.mT.to(initial_state.dtype),
    )


def _unit_stride(tensor: Tensor | None) -> Tensor | None:
    """`tensor` with neighbouring channels side by side, copied only if they are not."""
    return tensor if tensor is None or tensor.stride(-1) == 1 else tensor.contiguous()


def _by_state(tensor: Tensor | None) -> Tensor | None:
    """(..., e, n) as contiguous (..., n, e): the kernels read and write a state of many channels at once."""
    return None if tensor is None else tensor.mT.contiguous()


def _steps(tensor: Tensor | None) -> tuple[int, int]:
    """The strides of a tensor's first two axes; an absent tensor has none."""
    return (0, 0) if tensor is None else (tensor.stride(0), tensor.stride(1))


@triton.jit
def _load(ptr, mask, acc: tl.constexpr):
    return tl.load(ptr, mask=mask, other=0.0).to(acc)


@triton.jit
def _exists(index, size, inside):
    """Which of the channels or states exist at a position: none if it lies past the end of the sequence."""
    return index < tl.where(inside, size, 0)


@triton.jit
def _delta(raw, mask, SOFTPLUS: tl.constexpr):
    """The step size from dt + dt_bias; 0 where there is no position, which leaves the state as it is."""
    delta = raw
    if SOFTPLUS:
        delta = softplus(raw)
    return tl.where(mask, delta, 0.0)


@triton.jit
def _advance(h, delta, x, A2, B):
    return tl.exp2(delta[None, :] * A2) * h + x[None, :] * B[:, None]


@triton.jit
def _keep(h, reset_ptr, at, inside):
    """The state before position `at`: zeros where the sequence is reset there."""
    if reset_ptr is not None:
        h = tl.where(tl.load(reset_ptr + at, mask=inside, other=0) != 0, 0.0, h)
    return h


@triton.jit(do_not_specialize=["zero"])
def _selective_scan_fwd_kernel(
    u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, initial_ptr, reset_ptr,
    y_ptr, last_ptr, saved_ptr,
    l, e, blocks, zero,
    u_b, u_l, dt_b, dt_l, B_b, B_l, C_b, C_l, z_b, z_l,
    SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = last_ptr.dtype.element_ty
    row = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * BLOCK_E + tl.arange(0, BLOCK_E)
    state = tl.arange(0, BLOCK_N)
    has_channel, has_state = channel < e, state < N
    tile = has_state[:, None] & has_channel[None, :]
    # `zero` hides from the compiler that the tiles are aligned: for the sake of wider loads it would spread a
    # channel's states over several lanes, and every sum over them would pay.
    in_tile = zero + state[:, None] * tl.cast(e, tl.int64) + channel[None, :]
    in_block = zero + state[:, None] * BLOCK_E + tl.arange(0, BLOCK_E)[None, :].to(tl.int64)
    # exp(delta A) as a power of two: the hardware has no other exponential.
    A2 = _load(A_ptr + in_tile, tile, acc) * LOG2E
    bias = tl.zeros((BLOCK_E,), acc)
    if bias_ptr is not None:
        bias = _load(bias_ptr + channel, has_channel, acc)
    if D_ptr is not None:
        D = _load(D_ptr + channel, has_channel, acc)
    h = tl.zeros((BLOCK_N, BLOCK_E), acc)
    if initial_ptr is not None:
        h = _load(initial_ptr + row * N * e + in_tile, tile, acc)
    chunks = tl.cdiv(l, CHUNK)
    if saved_ptr is not None:
        saved_ptr += tl.program_id(0).to(tl.int64) * chunks * (BLOCK_N * BLOCK_E)
    for chunk in range(chunks):
        if saved_ptr is not None:
            tl.store(saved_ptr + chunk * (BLOCK_N * BLOCK_E) + in_block, h)
        start = chunk * CHUNK
        for first in range(start, tl.minimum(start + CHUNK, l), GROUP):
            # All loads of a group are under way before its first exponential.
            us, deltas, Bs, Cs, zs = (), (), (), (), ()
            for i in tl.static_range(GROUP):
                t = tl.cast(first + i, tl.int64)
                inside = t < l
                mask = _exists(channel, e, inside)
                us += (tl.load(u_ptr + row * u_b + t * u_l + channel, mask=mask, other=0.0),)
                deltas += (tl.load(dt_ptr + row * dt_b + t * dt_l + channel, mask=mask, other=0.0),)
                here = _exists(state, N, inside)
                Bs += (tl.load(B_ptr + row * B_b + t * B_l + state, mask=here, other=0.0),)
                Cs += (tl.load(C_ptr + row * C_b + t * C_l + state, mask=here, other=0.0),)
                if z_ptr is not None:
                    zs += (tl.load(z_ptr + row * z_b + t * z_l + channel, mask=mask, other=0.0),)
            for i in tl.static_range(GROUP):
                t = tl.cast(first + i, tl.int64)
                inside = t < l
                mask = _exists(channel, e, inside)
                u = us[i].to(acc)
                delta = _delta(deltas[i].to(acc) + bias, mask, SOFTPLUS)
                h = _keep(h, reset_ptr, row * l + t, inside)
                h = _advance(h, delta, delta * u, A2, Bs[i].to(acc))
                y = tl.sum(h * Cs[i].to(acc)[:, None], 0)
                if D_ptr is not None:
                    y += D * u
                if z_ptr is not None:
                    z = zs[i].to(acc)
                    y *= z * sigmoid(z)
                tl.store(y_ptr + (row * l + t) * e + channel, y, mask=mask)
    tl.store(last_ptr + row * N * e + in_tile, h, mask=tile)


@triton.jit(do_not_specialize=["zero"])
def _selective_scan_bwd_kernel(
    grad_y_ptr, grad_last_ptr, u_ptr, dt_ptr, A_ptr, B_ptr, C_ptr, D_ptr, z_ptr, bias_ptr, reset_ptr,
    saved_ptr, scratch_ptr,
    du_ptr, ddt_ptr, dA_ptr, dB_ptr, dC_ptr, dD_ptr, dz_ptr, dbias_ptr, dinitial_ptr,
    b, l, e, blocks, zero,
    gy_b, gy_l, u_b, u_l, dt_b, dt_l, B_b, B_l, C_b, C_l, z_b, z_l,
    SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    N: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    acc: tl.constexpr = saved_ptr.dtype.element_ty
    row = (tl.program_id(0) // blocks).to(tl.int64)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    channel = block.to(tl.int32) * BLOCK_E + tl.arange(0, BLOCK_E)
    state = tl.arange(0, BLOCK_N)
    has_channel, has_state = channel < e, state < N
    tile = has_state[:, None] & has_channel[None, :]
    # `zero` hides from the compiler that the tiles are aligned: for the sake of wider loads it would spread a
    # channel's states over several lanes, and every sum over them would pay.
    in_tile = zero + state[:, None] * tl.cast(e, tl.int64) + channel[None, :]
    in_block = zero + state[:, None] * BLOCK_E + tl.arange(0, BLOCK_E)[None, :].to(tl.int64)
    A2 = _load(A_ptr + in_tile, tile, acc) * LOG2E
    bias = tl.zeros((BLOCK_E,), acc)
    if bias_ptr is not None:
        bias = _load(bias_ptr + channel, has_channel, acc)
    if D_ptr is not None:
        D = _load(D_ptr + channel, has_channel, acc)
    # g is the gradient of the state after the position at hand.
    g = tl.zeros((BLOCK_N, BLOCK_E), acc)
    if grad_last_ptr is not None:
        g = _load(grad_last_ptr + row * N * e + in_tile, tile, acc)
    dA = tl.zeros((BLOCK_N, BLOCK_E), acc)
    dD = tl.zeros((BLOCK_E,), acc)
    dbias = tl.zeros((BLOCK_E,), acc)
    GROUPS: tl.constexpr = CHUNK // GROUP
    scratch_ptr += tl.program_id(0).to(tl.int64) * (GROUPS * BLOCK_N * BLOCK_E)
    chunks = tl.cdiv(l, CHUNK)
    saved_ptr += tl.program_id(0).to(tl.int64) * chunks * (BLOCK_N * BLOCK_E)
    for chunk_from_end in range(chunks):
        chunk = chunks - 1 - chunk_from_end
        start = chunk * CHUNK
        groups = tl.cdiv(tl.minimum(CHUNK, l - start), GROUP)
        h = tl.load(saved_ptr + chunk * (BLOCK_N * BLOCK_E) + in_block)
        # The lanes exchange data through memory here: the stores of one phase, the loads of the next.
        tl.debug_barrier()
        tl.store(scratch_ptr + in_block, h)
        for group in range(1, groups):
            for i in tl.static_range(GROUP):
                t = tl.cast(start + (group - 1) * GROUP + i, tl.int64)
                u = _load(u_ptr + row * u_b + t * u_l + channel, has_channel, acc)
                raw = _load(dt_ptr + row * dt_b + t * dt_l + channel, has_channel, acc) + bias
                delta = _delta(raw, has_channel, SOFTPLUS)
                B = _load(B_ptr + row * B_b + t * B_l + state, has_state, acc)
                h = _keep(h, reset_ptr, row * l + t, True)
                h = _advance(h, delta, delta * u, A2, B)
            tl.store(scratch_ptr + group * (BLOCK_N * BLOCK_E) + in_block, h)
        tl.debug_barrier()
        for group_from_end in range(groups):
            group = groups - 1 - group_from_end
            h = tl.load(scratch_ptr + group * (BLOCK_N * BLOCK_E) + in_block)
            us, raws, Bs, Cs, gys, zs, befores = (), (), (), (), (), (), ()
            for i in tl.static_range(GROUP):
                t = tl.cast(start + group * GROUP + i, tl.int64)
                inside = t < l
                mask = _exists(channel, e, inside)
                here = _exists(state, N, inside)
                us += (tl.load(u_ptr + row * u_b + t * u_l + channel, mask=mask, other=0.0),)
                raws += (_load(dt_ptr + row * dt_b + t * dt_l + channel, mask, acc) + bias,)
                Bs += (tl.load(B_ptr + row * B_b + t * B_l + state, mask=here, other=0.0),)
                Cs += (tl.load(C_ptr + row * C_b + t * C_l + state, mask=here, other=0.0),)
                gys += (_load(grad_y_ptr + row * gy_b + t * gy_l + channel, mask, acc),)
                if z_ptr is not None:
                    zs += (_load(z_ptr + row * z_b + t * z_l + channel, mask, acc),)
            for i in tl.static_range(GROUP):
                t = tl.cast(start + group * GROUP + i, tl.int64)
                h = _keep(h, reset_ptr, row * l + t, t < l)
                befores += (h,)
                delta = _delta(raws[i], _exists(channel, e, t < l), SOFTPLUS)
                h = _advance(h, delta, delta * us[i].to(acc), A2, Bs[i].to(acc))
            for i in tl.static_range(GROUP - 1, -1, -1):
                t = tl.cast(start + group * GROUP + i, tl.int64)
                inside = t < l
                mask = _exists(channel, e, inside)
                here = _exists(state, N, inside)
                u, gy = us[i].to(acc), gys[i]
                B, C = Bs[i].to(acc), Cs[i].to(acc)
                delta = _delta(raws[i], mask, SOFTPLUS)
                decay = tl.exp2(delta[None, :] * A2)
                decayed = decay * befores[i]
                h = decayed + (delta * u)[None, :] * B[:, None]
                if z_ptr is not None:
                    z = zs[i]
                    gate = sigmoid(z)
                    y = tl.sum(h * C[:, None], 0)
                    if D_ptr is not None:
                        y += D * u
                    dz = gy * y * gate * (1.0 + z * (1.0 - gate))
                    tl.store(dz_ptr + (row * l + t) * e + channel, dz, mask=mask)
                    gy *= z * gate
                partial = ((block * b + row) * l + t) * N + state
                tl.store(dC_ptr + partial, tl.sum(h * gy[None, :], 1), mask=here)
                g += gy[None, :] * C[:, None]
                dx = tl.sum(g * B[:, None], 0)
                tl.store(dB_ptr + partial, tl.sum(g * (delta * u)[None, :], 1), mask=here)
                through = g * decayed
                dA += through * delta[None, :]
                ddelta = dx * u + tl.sum(through * A2, 0) * LN2
                du = dx * delta
                if D_ptr is not None:
                    du += gy * D
                    dD += gy * u
                if SOFTPLUS:
                    ddelta *= tl.where(raws[i] > 20.0, 1.0, sigmoid(raws[i]))
                dbias += tl.where(mask, ddelta, 0.0)
                tl.store(du_ptr + (row * l + t) * e + channel, du, mask=mask)
                tl.store(ddt_ptr + (row * l + t) * e + channel, ddelta, mask=mask)
                g = _keep(g * decay, reset_ptr, row * l + t, inside)
    tl.store(dA_ptr + row * N * e + in_tile, dA, mask=tile)
    if dD_ptr is not None:
        tl.store(dD_ptr + row * e + channel, dD, mask=has_channel)
    if dbias_ptr is not None:
        tl.store(dbias_ptr + row * e + channel, dbias, mask=has_channel)
    if dinitial_ptr is not None:
        tl.store(dinitial_ptr + row * N * e + in_tile, g, mask=tile)
