"""The GPU backend's door: the ops as CUDA C++ or Triton kernels, launched on their tensors' own device."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from vlmamba.ops import conv, cuda_runtime, cuda_scan, dynamics, loss, norm, scan, step

P = ParamSpec("P")
R = TypeVar("R")


def _on_its_device(op: Callable[P, R]) -> Callable[P, R]:
    """`op` with its tensors' device current, for Triton launches there; torch.compile calls it as it is."""

    @functools.wraps(op)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return op(*args, **kwargs)

    return torch.compiler.disable(call)  # pyright: ignore[reportReturnType]


def _selective_scan(
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
    gradients_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """CUDA C++ where it can be compiled and takes these arguments, else Triton, which always makes y."""
    arguments = u, dt, A, B, C, D, z, dt_bias, dt_softplus
    if _compiled(u) and cuda_scan.takes(u, dt, A, B, C, z):
        return cuda_scan.selective_scan(
            *arguments, initial_state=initial_state, reset=reset, gradients_only=gradients_only
        )
    return scan.selective_scan(*arguments, initial_state=initial_state, reset=reset)


def _scan_onwards(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    dt_bias: Tensor,
    state: Tensor,
) -> Tensor:
    """y of the scan with softplus from `state` (b, e, n) on, contiguous float32, which is moved on in place."""
    if _compiled(u) and cuda_scan.takes(u, dt, A, B, C, z):
        return cuda_scan.scan_onwards(u, dt, A, B, C, D, z, dt_bias, state)
    y, last = scan.selective_scan(u, dt, A, B, C, D, z, dt_bias, True, initial_state=state)
    state.copy_(last)
    return y


def _compiled(tensor: Tensor) -> bool:
    return tensor.is_cuda and cuda_runtime.unavailable(tensor.get_device()) is None


selective_scan = _on_its_device(_selective_scan)
scan_onwards = _on_its_device(_scan_onwards)
scan_dynamics = _on_its_device(dynamics.scan_dynamics)
causal_conv1d = _on_its_device(conv.causal_conv1d)
selective_state_update = _on_its_device(step.selective_state_update)
causal_conv1d_update = _on_its_device(step.causal_conv1d_update)
gated_conv1d = _on_its_device(conv.gated_conv1d)
add_rms_norm = _on_its_device(norm.add_rms_norm)
linear_cross_entropy = _on_its_device(loss.linear_cross_entropy)
