"""The selective scan on a CPU, in chunks that fit the cache, with a hand-written backward pass.

Per chunk, three operations make exp(delta A) and delta B u for all its positions at once, one fused
multiply-add per position runs the recurrence, and one batched product with C reads the outputs. The
(position, b, n, e) buffers are as long as a chunk and serve the next chunk again. The backward pass has
kept the state before each chunk and makes the states between anew.

exp is taken as exp2 with A scaled by log2(e), because PyTorch's exp2 is the faster of the two.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.reference import scan_dtype

LOG2_E = 1 / math.log(2)
# A chunk's buffer has about so many elements (two megabytes in float32), within bounds on its length:
# shorter would keep more checkpoints than inputs at 16 states, longer gains nothing.
CHUNK_ELEMENTS = 2**19
CHUNK_LENGTHS = (16, 64)


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
    """`reference.selective_scan_ref`, fast. Differentiable once."""
    inputs = (u, dt, A, B, C, D, z, dt_bias, initial_state)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _SelectiveScan.apply(dt_softplus, reset, *inputs)  # pyright: ignore[reportReturnType]
    scan = _Scan.of(u, dt, A, B, C, dt_bias, dt_softplus, reset)
    y, last, _ = _forward(scan, D, z, initial_state, checkpoints=False)
    return y.to(u.dtype), last


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
    """`reference.selective_state_update_ref` without the loop around it."""
    dtype = scan_dtype(x.dtype)
    wide, delta = x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        delta = delta + dt_bias.to(dtype)
    if dt_softplus:
        delta = F.softplus(delta)
    decay = ((delta * LOG2_E).unsqueeze(-1) * A.to(dtype)).exp2_()  # (b, e, n)
    h = state.to(dtype).mul_(decay)
    h.addcmul_((delta * wide).unsqueeze(-1), B.to(dtype).unsqueeze(1))
    with torch.autocast("cpu", enabled=False):
        y = torch.bmm(C.to(dtype).unsqueeze(1), h.mT).squeeze(1)  # (b, e)
    if h is not state:
        state.copy_(h)
    if D is not None:
        y = torch.addcmul(y, wide, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(x.dtype)


class _Scan(NamedTuple):
    """The recurrence alone: position first, in the dtype of the state."""

    u: Tensor  # (l, b, e)
    raw: Tensor  # (l, b, e), delta before its softplus
    delta: Tensor  # (l, b, e)
    x: Tensor  # (l, b, e), delta * u
    A: Tensor  # (n, e)
    A_log2: Tensor  # (n, e), A * log2(e)
    B: Tensor  # (l, b, n)
    C: Tensor  # (l, b, n)
    reset: Tensor | None  # (l, b)

    @classmethod
    def of(
        cls,
        u: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        dt_bias: Tensor | None,
        dt_softplus: bool,
        reset: Tensor | None,
    ) -> "_Scan":
        """From the arguments of `selective_scan`."""
        dtype = scan_dtype(u.dtype)
        u, raw, B, C = (_position_first(t, dtype) for t in (u, dt, B, C))
        if dt_bias is not None:
            raw = raw + dt_bias.to(dtype)
        delta = F.softplus(raw) if dt_softplus else raw
        A = A.to(dtype).t().contiguous()  # (n, e)
        return cls(
            u, raw, delta, delta * u, A, A * LOG2_E, B, C, None if reset is None else reset.t()
        )

    def spans(self) -> list[tuple[int, int]]:
        """Where the chunks begin and end: as many positions as fit the cache, within bounds."""
        l, b, e = self.x.shape
        shortest, longest = CHUNK_LENGTHS
        per_position = max(1, b * e * self.A.shape[0])
        size = min(max(CHUNK_ELEMENTS // per_position, shortest), longest)
        return [(begin, min(begin + size, l)) for begin in range(0, l, size)]

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Room for the decays of the longest chunk (t, b, n, e), and for its states (1 + t, b, n, e)."""
        _, b, e = self.x.shape
        length = max((end - begin for begin, end in self.spans()), default=0)
        shape = (b, self.A.shape[0], e)
        return self.x.new_empty((length, *shape)), self.x.new_empty((1 + length, *shape))

    def run(self, begin: int, end: int, decay: Tensor, states: Tensor) -> None:
        """From states[0], fill in the decays and the states of positions `begin` to `end`."""
        torch.mul(self.delta[begin:end, :, None], self.A_log2, out=decay)
        torch.exp2(decay, out=decay)
        if self.reset is not None:
            decay[self.reset[begin:end]] = 0.0
        torch.mul(self.x[begin:end, :, None], self.B[begin:end, ..., None], out=states[1:])
        before, *after = states.unbind(0)
        for step, state in zip(decay.unbind(0), after, strict=True):
            torch.addcmul(state, step, before, out=state)
            before = state


def _forward(
    scan: _Scan,
    D: Tensor | None,
    z: Tensor | None,
    initial_state: Tensor | None,
    *,
    checkpoints: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (b, l, e), the last state (b, e, n) and, if asked for, the state before each chunk (., b, n, e)."""
    spans = scan.spans()
    decay, states = scan.buffers()
    _, b, n, e = states.shape
    starts = states.new_empty((len(spans) if checkpoints else 0, b, n, e))
    y = torch.empty_like(scan.x)  # (l, b, e)
    last = states[0]
    last.zero_() if initial_state is None else last.copy_(initial_state.transpose(1, 2))
    for i, (begin, end) in enumerate(spans):
        t = end - begin
        rows = t * b
        states[0] = last
        if checkpoints:
            starts[i] = last
        scan.run(begin, end, decay[:t], states[: 1 + t])
        h = states[1 : 1 + t].view(rows, n, e)
        torch.bmm(scan.C[begin:end].view(rows, 1, n), h, out=y[begin:end].view(rows, 1, e))
        last = states[t]
    if D is not None:
        y.addcmul_(scan.u, D.to(y.dtype))
    if z is not None:
        y *= F.silu(z.to(y.dtype)).transpose(0, 1)
    return _batch_first(y), last.transpose(1, 2).contiguous(), starts


class _SelectiveScan(torch.autograd.Function):
    """Keeps its inputs and one state per chunk."""

    @staticmethod
    def forward(
        ctx: Any, dt_softplus: bool, reset: Tensor | None, *inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        u, dt, A, B, C, D, z, dt_bias, initial_state = inputs
        scan = _Scan.of(u, dt, A, B, C, dt_bias, dt_softplus, reset)  # pyright: ignore[reportArgumentType]
        y, last, starts = _forward(scan, D, z, initial_state, checkpoints=True)
        ctx.save_for_backward(reset, starts, *inputs)
        ctx.dt_softplus = dt_softplus
        return y.to(u.dtype), last  # pyright: ignore[reportOptionalMemberAccess]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride], the decorator's doing
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        dout, dlast = grad_outputs
        reset, starts, *inputs = ctx.saved_tensors
        u, dt, A, B, C, D, z, dt_bias, initial_state = inputs
        scan = _Scan.of(u, dt, A, B, C, dt_bias, ctx.dt_softplus, reset)
        dtype = scan.x.dtype
        dz = dD = dbias = dstart = None
        gate = None if z is None else _position_first(z, dtype)
        dgated = _position_first(dout, dtype)
        dy = dgated if gate is None else dgated * F.silu(gate)
        g = _backward(scan, starts, dy, dlast, need_y=z is not None, need_A=ctx.needs_input_grad[4])
        ddelta, du = g.delta.addcmul_(g.x, scan.u), g.x.mul_(scan.delta)
        if D is not None:
            D = D.to(dtype)
            dD = (dy * scan.u).sum((0, 1))
            du.addcmul_(dy, D)
        if gate is not None:
            y = g.y if D is None else torch.addcmul(g.y, scan.u, D)
            dz = _batch_first(torch.ops.aten.silu_backward(dgated * y, gate))
        if ctx.dt_softplus:
            ddelta = torch.ops.aten.softplus_backward(ddelta, scan.raw, 1, 20)
        if dt_bias is not None:
            dbias = ddelta.sum((0, 1))
        if initial_state is not None:
            dstart = g.start.transpose(1, 2)
        du, ddelta, dB, dC = (_batch_first(t) for t in (du, ddelta, g.B, g.C))
        grads = (du, ddelta, g.A.t(), dB, dC, dD, dz, dbias, dstart)
        typed = (d if d is None else d.to(t.dtype) for d, t in zip(grads, inputs, strict=True))
        return None, None, *typed


class _Grads(NamedTuple):
    """What the gradients of `_Scan`'s members are, `delta` through the decay alone."""

    y: Tensor  # (l, b, e), not a gradient: the output before D and z, made again if it is needed
    x: Tensor  # (l, b, e)
    delta: Tensor  # (l, b, e)
    A: Tensor  # (n, e), zeros unless needed
    B: Tensor  # (l, b, n)
    C: Tensor  # (l, b, n)
    start: Tensor  # (b, n, e)


def _backward(
    scan: _Scan, starts: Tensor, dy: Tensor, dlast: Tensor, *, need_y: bool, need_A: bool
) -> _Grads:
    """From the end to the start, g_t = C_t dy_t + decay_{t+1} g_{t+1} is the gradient that reaches h_t."""
    shapes = (
        dy.shape,
        dy.shape,
        dy.shape,
        scan.A.shape,
        scan.B.shape,
        scan.C.shape,
        starts.shape[1:],
    )
    out = _Grads(*(dy.new_empty(shape) for shape in shapes))
    out.A.zero_()
    out.start.copy_(dlast.transpose(1, 2))
    decays, states = scan.buffers()
    carries = torch.empty_like(decays)
    _, b, n, e = states.shape
    for (begin, end), start in zip(reversed(scan.spans()), starts.flip(0), strict=True):
        t, rows = end - begin, (end - begin) * b
        decay, before, h, g = decays[:t], states[:t], states[1 : 1 + t], carries[:t]
        states[0] = start
        scan.run(begin, end, decay, states[: 1 + t])
        at = slice(begin, end)
        delta, B, C = scan.delta[at].unsqueeze(2), scan.B[at], scan.C[at]
        row = dy[at].view(rows, 1, e)
        torch.mul(C.unsqueeze(-1), dy[at].unsqueeze(2), out=g)
        g[-1] += out.start
        later, *earlier = reversed(g.unbind(0))
        for step, carry in zip(reversed(decay.unbind(0)), earlier, strict=False):
            torch.addcmul(carry, step, later, out=carry)
            later = carry
        flat_h, flat_g = h.view(rows, n, e), g.view(rows, n, e)
        if need_y:
            torch.bmm(C.view(rows, 1, n), flat_h, out=out.y[at].view(rows, 1, e))
        torch.bmm(row, flat_h.mT, out=out.C[at].view(rows, 1, n))
        torch.bmm(B.view(rows, 1, n), flat_g, out=out.x[at].view(rows, 1, e))
        torch.bmm(scan.x[at].view(rows, 1, e), flat_g.mT, out=out.B[at].view(rows, 1, n))
        g *= decay
        out.start.copy_(g[0])
        g *= before  # the gradient of delta A
        if need_A:
            torch.mul(g, delta, out=decay)
            out.A.add_(decay.sum((0, 1)))
        g *= scan.A
        torch.sum(g, 2, out=out.delta[at])
    return out


def _position_first(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype).transpose(0, 1).contiguous()


def _batch_first(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()
