"""The two activations inside the GPU kernels, in forms that neither overflow nor lose small values."""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    z = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, z) / (1.0 + z)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to full relative precision, also where exp(x) vanishes beside 1; x itself above 20."""
    z = tl.exp(-tl.abs(x))
    w = 1.0 + z
    log1p = tl.where(w == 1.0, z, tl.log(w) * (z / tl.where(w == 1.0, 1.0, w - 1.0)))
    return tl.where(x > 20.0, x, tl.maximum(x, 0.0) + log1p)
