"""Kernels that start while the one before them still runs: programmatic dependent launch, which CUDA graphs keep.

Such a kernel loads what no kernel of the same step makes, then waits for the one before it. From compute capability
9.0 on.
"""

from functools import cache

import torch
from torch import Tensor


@cache
def _has_dependent_launch(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


def starts_early(tensor: Tensor) -> bool:
    """Whether kernels may start while the one before them still runs."""
    return tensor.is_cuda and _has_dependent_launch(tensor.device)


def launch_options(tensor: Tensor, early: bool = True, **options: object) -> dict[str, object]:
    """Options of a kernel's launch; with `early` it starts early where it can."""
    options |= {"enable_fp_fusion": True}
    return options | ({"launch_pdl": True} if early and starts_early(tensor) else {})
