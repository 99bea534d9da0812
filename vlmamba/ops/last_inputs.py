"""What a causal convolution must remember of the inputs that it has seen."""

import torch
from torch import Tensor


def last_inputs(
    x: Tensor, width: int, initial_state: Tensor | None, reset: Tensor | None
) -> Tensor:
    """The last `width` inputs (b, e, width), oldest first; zeros before the start or a reset.

    x (b, l, e); initial_state (b, e, width): the inputs before it; reset (b, l) bool.
    """
    b, l, e = x.shape
    last = x[:, max(l - width, 0) :].transpose(1, 2)  # (b, e, at most width)
    segment = None if reset is None or not l else reset.cumsum(1, dtype=torch.int32)  # (b, l)
    if segment is not None:
        alive = segment[:, max(l - width, 0) :] == segment[:, -1:]
        last = last * alive[:, None]
    missing = width - last.shape[2]
    if not missing:
        return last.clone(memory_format=torch.contiguous_format)
    if initial_state is None:
        return torch.cat([last.new_zeros((b, e, missing)), last], 2)
    before = initial_state.to(x.dtype)[..., width - missing :]
    if segment is not None:
        before = before * (segment[:, -1:] == 0)[:, None]
    return torch.cat([before, last], 2)
