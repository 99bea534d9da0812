"""The causal depthwise convolution on a CPU: one fused multiply-add per tap, with a hand-written backward pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vlmamba.ops.reference import scan_dtype


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.causal_conv1d_ref`, fast. Differentiable once."""
    inputs = (x, weight, bias, initial_state)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs):
        return _CausalConv1d.apply(activation, reset, *inputs)  # pyright: ignore[reportReturnType]
    return _forward(activation, reset, *inputs)


def gated_conv1d(
    xz: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.gated_conv1d_ref` by way of `causal_conv1d`."""
    x, z = xz.chunk(2, dim=-1)
    out, _ = causal_conv1d(x, weight, bias, activation, initial_state=initial_state, reset=reset)
    return out, out, z


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """`reference.causal_conv1d_update_ref` without the sequence around it."""
    dtype = scan_dtype(x.dtype)
    window = torch.cat([conv_state.to(x.dtype), x.unsqueeze(-1)], -1)  # (b, e, k)
    out = (window.to(dtype) * weight.to(dtype)).sum(-1)  # (b, e)
    if bias is not None:
        out = out + bias.to(dtype)
    if activation == "silu":
        out = F.silu(out)
    conv_state.copy_(window[..., 1:])
    return out.to(x.dtype)


def _forward(
    activation: str | None,
    reset: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    seen = _seen(x, initial_state, weight.shape[1])
    segment = _segment(reset, weight.shape[1])
    out = _taps(seen, weight, bias, segment)
    if activation == "silu":
        out = F.silu(out)
    last = seen[:, x.shape[1] :]
    if segment is not None:
        last = last * _alive(segment, x.shape[1])
    return out.to(x.dtype), last.transpose(1, 2).contiguous()


def _seen(x: Tensor, initial_state: Tensor | None, k: int) -> Tensor:
    """The inputs with the k-1 before them (b, k-1+l, e)."""
    if initial_state is None:
        return F.pad(x, (0, 0, k - 1, 0))
    return torch.cat([initial_state.to(x.dtype).transpose(1, 2), x], 1)


def _segment(reset: Tensor | None, k: int) -> Tensor | None:
    """How many resets came up to each position of `_seen` (b, k-1+l, 1)."""
    return None if reset is None else F.pad(reset.long().cumsum(1), (k - 1, 0)).unsqueeze(-1)


def _alive(segment: Tensor, l: int) -> Tensor:
    """Which of the last k-1 inputs no reset has cut off (b, k-1, 1)."""
    return segment[:, l:] == segment[:, -1:]


def _taps(seen: Tensor, weight: Tensor, bias: Tensor | None, segment: Tensor | None) -> Tensor:
    """The convolution before its activation (b, l, e), in the wide dtype."""
    k = weight.shape[1]
    windows = (_window(seen, segment, j, k) for j in range(k))
    first = next(windows)
    tap, *taps = weight.to(first.dtype).t().contiguous()
    out = first * tap if bias is None else torch.addcmul(bias.to(first.dtype), first, tap)
    for window, tap in zip(windows, taps, strict=True):
        out.addcmul_(window, tap)
    return out


def _window(seen: Tensor, segment: Tensor | None, j: int, k: int) -> Tensor:
    """What tap `j` of `k` reads at every position (b, l, e), in the wide dtype."""
    l = seen.shape[1] - k + 1
    window = seen[:, j : j + l].to(scan_dtype(seen.dtype))
    return window if segment is None else window * _same(segment, j, k)


def _same(segment: Tensor, j: int, k: int) -> Tensor:
    """Where no reset lies between a position and the input that tap `j` of `k` reads (b, l, 1)."""
    l = segment.shape[1] - k + 1
    return segment[:, j : j + l] == segment[:, k - 1 :]


class _CausalConv1d(torch.autograd.Function):
    """Keeps its inputs alone."""

    @staticmethod
    def forward(
        ctx: Any, activation: str | None, reset: Tensor | None, *inputs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(reset, *inputs)
        ctx.activation = activation
        return _forward(activation, reset, *inputs)  # pyright: ignore[reportArgumentType]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride], the decorator's doing
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        dout, dlast = grad_outputs
        reset, *inputs = ctx.saved_tensors
        x, weight, bias, initial_state = inputs
        dtype, l, k = scan_dtype(x.dtype), x.shape[1], weight.shape[1]
        seen, segment = _seen(x, initial_state, k), _segment(reset, k)
        dout = dout.to(dtype)
        if ctx.activation == "silu":
            dout = torch.ops.aten.silu_backward(dout, _taps(seen, weight, bias, segment))
        dseen = torch.zeros_like(seen, dtype=dtype)
        dseen[:, l:] = dlast.transpose(1, 2)
        if segment is not None:
            dseen[:, l:] *= _alive(segment, l)
        dweight = torch.zeros_like(weight, dtype=dtype)
        for j, tap in enumerate(weight.to(dtype).t().contiguous()):
            if ctx.needs_input_grad[3]:
                dweight[:, j] = (dout * _window(seen, segment, j, k)).sum((0, 1))
            reached = dout if segment is None else dout * _same(segment, j, k)
            dseen[:, j : j + l].addcmul_(reached, tap)
        dpast = dseen[:, : k - 1].transpose(1, 2)  # (b, e, k-1)
        grads = (dseen[:, k - 1 :], dweight, dout.sum((0, 1)), dpast)
        pairs = zip(grads, inputs, strict=True)
        return None, None, *(None if t is None else grad.to(t.dtype) for grad, t in pairs)
