"""An optimiser step that was launched, and its figures as they arrive from the device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vlmamba.data.batches import Batch
from vlmamba.train.journal import Done


class Update:
    """Step number `step`: this process's batches, each one's loss and count, and the sums of all processes.

    sums (5,) float64 on the device: loss, supervised tokens, the gradient's squares, tokens, pictures; share: what the
    sum of the processes' gradients must be multiplied with.
    """

    def __init__(
        self, step: int, micro: Sequence[Batch], passes: Tensor, sums: Tensor, share: float
    ) -> None:
        self.step, self.micro, self.passes, self.share = step, micro, passes, share
        self._figures, self._arrived = sums, None
        if sums.is_cuda:
            self._figures = torch.empty(len(sums), dtype=sums.dtype, pin_memory=True)
            self._figures.copy_(sums, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> Done:
        """The step's figures; waits for this step alone, not for what was launched since."""
        if self._arrived is not None:
            self._arrived.synchronize()
        total, count, squares, tokens, pictures = self._figures.tolist()
        loss = total / count if count else math.nan
        norm = math.sqrt(squares) * self.share / count if count else math.nan
        return Done(loss, norm, int(count), int(tokens), int(pictures))
