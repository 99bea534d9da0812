"""A running average of the trained weights: what a stage ends with when it asks for one.

The average of the last few thousand steps' weights sees better than the last weights alone, at the price of one
pass over them a step (Polyak and Juditsky 1992; Karras et al., arXiv 2312.02696, on the warm-up).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Parameter


class RunningAverage:
    """average <- decay * average + (1 - decay) * weights; the first steps, far from the end, count for less."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after optimiser step number `step`, from 1."""
        decay = min(self.decay, step / (step + 9))
        averages, now = list(self.weights.values()), [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_(averages, now, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint's average; raises ValueError when it is of other weights."""
        if set(saved) != set(self.weights):
            raise ValueError("the checkpoint's average is of other weights than this stage trains")
        for name, tensor in saved.items():
            self.weights[name].copy_(tensor)

    @torch.no_grad()
    def put_in_place(self) -> None:
        """The average takes the place of the weights themselves."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])
