"""Which backend runs an op, and why: the device decides unless VLMAMBA_BACKEND forces one."""

import importlib.util
import logging
import os
from functools import cache
from typing import Literal, NamedTuple

import torch

Backend = Literal["reference", "cpu", "gpu"]
BACKENDS: tuple[Backend, ...] = ("reference", "cpu", "gpu")
log = logging.getLogger("vlmamba")


class Choice(NamedTuple):
    """A backend and the reason it was chosen, as `vlmamba doctor` and the log print it."""

    backend: Backend
    reason: str


def choose(device: torch.device) -> Choice:
    """The backend for tensors on `device`.

    Raises ValueError for an unknown VLMAMBA_BACKEND and RuntimeError for one that cannot run there.
    """
    return _choose(device.type, os.environ.get("VLMAMBA_BACKEND", ""))


@cache
def _choose(device_type: str, forced: str) -> Choice:
    choice = _forced(device_type, forced) if forced else _by_device(device_type)
    if choice.backend == "gpu":
        choice = Choice("gpu", f"{choice.reason}; {_scan_kernels(device_type)}")
    log.info("ops on %s: backend %s (%s)", device_type, choice.backend, choice.reason)
    return choice


def _forced(device_type: str, forced: str) -> Choice:
    if forced not in BACKENDS:
        raise ValueError(f"VLMAMBA_BACKEND={forced!r} is unknown: use one of {', '.join(BACKENDS)}")
    runs_on = {"reference": True, "cpu": device_type == "cpu", "gpu": gpu_kernels_run(device_type)}
    if not runs_on[forced]:
        raise RuntimeError(
            f"VLMAMBA_BACKEND={forced} cannot run on device '{device_type}': unset it or move the model"
        )
    return Choice(forced, "forced by VLMAMBA_BACKEND")


def _by_device(device_type: str) -> Choice:
    if device_type == "cpu":
        return Choice("cpu", "the tensors are on the CPU")
    if gpu_kernels_run(device_type):
        return Choice("gpu", f"the tensors are on {device_type} and Triton is installed")
    return Choice("reference", f"no kernels for {device_type} without Triton: plain PyTorch, slow")


def _scan_kernels(device_type: str) -> str:
    """In what the selective scan runs there, and why."""
    if device_type != "cuda":
        return "scan in Triton: interpreted"
    from vlmamba.ops import cuda_runtime

    obstacle = cuda_runtime.unavailable(torch.cuda.current_device())
    if obstacle:
        return f"scan in Triton: {obstacle}"
    return f"scan in CUDA C++, compiled by NVRTC {cuda_runtime.nvrtc_version()}"


def gpu_kernels_run(device_type: str) -> bool:
    """Whether the Triton kernels can run on `device_type`: a GPU, or the CPU under Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        return False
    interpreted = device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
    return device_type == "cuda" or interpreted
