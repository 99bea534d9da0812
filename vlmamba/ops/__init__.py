"""The kernels: one public signature per op, several backends behind it. Nothing here knows a model."""

from types import ModuleType

import torch
from torch import Tensor

from vlmamba.ops import backend, reference
from vlmamba.ops.last_inputs import last_inputs

__all__ = [
    "add_rms_norm",
    "causal_conv1d",
    "causal_conv1d_update",
    "gated_conv1d",
    "last_inputs",
    "linear_cross_entropy",
    "scan_dynamics",
    "selective_scan",
    "selective_state_update",
]


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
    return_last_state: bool = False,
    gradients_only: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan; `reference.selective_scan_ref` is its definition, shapes included.

    Differentiable in every tensor argument. Returns y (b, l, e), and with `return_last_state` also the
    last state (b, e, n) in float32 (float64 for float64 inputs). `gradients_only`: nobody reads y's values,
    which are wanted for their gradients, so that a backend may leave them out.
    Raises ValueError when a shape does not fit.
    """
    b, l, e = u.shape
    n = A.shape[-1]
    _expect(dt=(dt, (b, l, e)), A=(A, (e, n)), B=(B, (b, l, n)), C=(C, (b, l, n)))
    _expect(D=(D, (e,)), z=(z, (b, l, e)), dt_bias=(dt_bias, (e,)))
    _expect(initial_state=(initial_state, (b, e, n)), reset=(reset, (b, l)))
    options: dict = {"initial_state": initial_state, "reset": reset}
    if gradients_only and backend.choose(u.device).backend == "gpu":
        options["gradients_only"] = True
    y, last = _implementation(u).selective_scan(
        u, dt, A, B, C, D, z, dt_bias, dt_softplus, **options
    )
    return (y, last) if return_last_state else y


def scan_dynamics(A_log: Tensor, D: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A = -exp(A_log) (e, n), D (e,) and dt_bias (e,) as the scan takes them, in float32 at least. Differentiable."""
    return _implementation(A_log).scan_dynamics(A_log, D, dt_bias)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The causal depthwise convolution; `reference.causal_conv1d_ref` is its definition, shapes included.

    Returns out (b, l, e), and with `return_last_state` also the last k-1 inputs (b, e, k-1).
    Raises ValueError when a shape does not fit or the activation is unknown.
    """
    b, l, e = x.shape
    k = weight.shape[-1]
    _expect(weight=(weight, (e, k)), bias=(bias, (e,)))
    _expect(initial_state=(initial_state, (b, e, k - 1)), reset=(reset, (b, l)))
    if activation not in (None, "silu"):
        raise ValueError(f"activation {activation!r} is unknown: use None or 'silu'")
    out, last = _implementation(x).causal_conv1d(
        x, weight, bias, activation, initial_state=initial_state, reset=reset
    )
    return (out, last) if return_last_state else out


def gated_conv1d(
    xz: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`causal_conv1d` of the first half of xz (b, l, 2e); `reference.gated_conv1d_ref` is its definition.

    Returns the output twice and the second half of xz; `last_inputs` makes what a later call continues from. On a
    GPU the gradients of all three meet in one kernel and one tensor: no pass of its own adds those of the output's
    two readers or joins the halves.
    Raises ValueError when a shape does not fit or the activation is unknown.
    """
    b, l, _ = xz.shape
    e, k = weight.shape
    _expect(xz=(xz, (b, l, 2 * e)), bias=(bias, (e,)))
    _expect(initial_state=(initial_state, (b, e, k - 1)), reset=(reset, (b, l)))
    if activation not in (None, "silu"):
        raise ValueError(f"activation {activation!r} is unknown: use None or 'silu'")
    return _implementation(xz).gated_conv1d(
        xz, weight, bias, activation, initial_state=initial_state, reset=reset
    )


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
    """One decoding step of the scan, `state` (b, e, n) updated in place.

    `reference.selective_state_update_ref` is its definition.
    """
    return _implementation(x).selective_state_update(
        state, x, dt, A, B, C, D, z, dt_bias, dt_softplus
    )


def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """One decoding step of the convolution, `conv_state` (b, e, k-1) updated in place.

    `reference.causal_conv1d_update_ref` is its definition.
    """
    return _implementation(x).causal_conv1d_update(x, conv_state, weight, bias, activation)


def add_rms_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Adds `hidden` to the residual stream and norms it; `reference.add_rms_norm_ref` is its definition.

    Returns normed (.., d), in the weight's dtype unless `dtype` names another, and the new residual
    (.., d), in float32 (float64 for float64 inputs). Differentiable in every tensor argument.
    Raises ValueError when a shape does not fit.
    """
    _expect(residual=(residual, tuple(hidden.shape)), weight=(weight, (hidden.shape[-1],)))
    return _implementation(hidden).add_rms_norm(
        hidden, residual, weight, eps, weight.dtype if dtype is None else dtype
    )


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """A language model's head and its loss in one: next-token cross-entropy, summed over rows.

    `reference.linear_cross_entropy_ref` is its definition, shapes included. Differentiable in x and weight.
    Raises ValueError when a shape does not fit.
    """
    t, d = x.shape
    _expect(weight=(weight, (weight.shape[0], d)), targets=(targets, (t,)))
    return _implementation(x).linear_cross_entropy(x, weight, targets)


def _implementation(tensor: Tensor) -> ModuleType:
    """The module of the chosen backend; the others are never imported."""
    match backend.choose(tensor.device).backend:
        case "cpu":
            from vlmamba.ops import cpu

            return cpu
        case "gpu":
            from vlmamba.ops import gpu

            return gpu
        case _:
            return reference


def _expect(**arguments: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raises ValueError for the first argument that is there and not of its shape."""
    for name, (tensor, shape) in arguments.items():
        if tensor is not None and tensor.shape != torch.Size(shape):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")
