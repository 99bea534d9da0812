"""A stage of which every step is the replay of one CUDA graph: for small models, whose launches outlast their work.

A step does what `train/step.py` does of one batch, with the same numbers; nothing is written, and nothing resumed.
Elsewhere than on a GPU the same step is computed as it stands.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from vlmamba.data.batches import Batch, Batches
from vlmamba.train.optimizer import build_optimizer
from vlmamba.train.replay import record_graph
from vlmamba.train.stages import StageConfig, freeze_for, learning_rate
from vlmamba.train.step import ATTENTION, NonFiniteError, Objective

log = logging.getLogger("vlmamba")
LAST = 50  # steps that the last loss is the mean of


@dataclass(frozen=True)
class Recorded:
    """seconds of the stage and of its recording; loss: the mean over the last steps."""

    seconds: float
    recording: float
    loss: float


def run_recorded(
    model: nn.Module, batches: Batches, stage: StageConfig, objective: Objective
) -> Recorded:
    """Trains what `stage` names, in place; all batches must be of one shape, on the device of the model.

    Raises NonFiniteError when more than `stage.max_skipped` updates were left out for not being finite.
    """
    begun = time.perf_counter()
    step = _Step(model.train(), batches.batch(0), stage, objective)
    total = stage.total_steps(len(batches))
    replay = step.compute
    if step.device.type == "cuda":
        try:
            replay = step.record()
        except RuntimeError as error:
            log.warning("%s without a CUDA graph: %s", stage.name, str(error).split("\n")[0])
    recording = time.perf_counter() - begun
    sums = []
    for index in range(total):
        step.set(batches.batch(index), learning_rate(stage, index, total))
        replay()
        sums.append(step.sums.clone())
    figures = torch.stack(sums).cpu()  # (steps, 3); waits for the device
    skipped = int(figures[:, 2].sum())
    if skipped > stage.max_skipped:
        first = int(figures[:, 2].argmax()) + 1
        raise NonFiniteError(
            f"step {first} of stage {stage.name}: not finite; {skipped} updates were left out, "
            f"{stage.max_skipped} are allowed"
        )
    loss, count, _ = figures[-LAST:].sum(0).tolist()
    model.zero_grad(set_to_none=True)
    return Recorded(time.perf_counter() - begun, recording, loss / count if count else math.nan)


class _Step:
    """One optimiser step over tensors that stay where they are."""

    def __init__(
        self, model: nn.Module, batch: Batch, stage: StageConfig, objective: Objective
    ) -> None:
        self.model, self.objective, self.stage = model, objective, stage
        self.parameters = list(freeze_for(model, stage.name).values())
        self.device = self.parameters[0].device
        self.batch = batch.to(self.device)
        self.optimizer = build_optimizer(model, stage)
        for group in self.optimizer.param_groups:
            group["lr"] = torch.tensor(stage.lr, device=self.device)
            group["capturable"] = True
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.device)

    def set(self, batch: Batch, rate: float) -> None:
        """The samples and the learning rate of the next step."""
        new = batch.tensors()
        for name, tensor in self.batch.tensors().items():
            tensor.copy_(new[name])
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate * group["rate"])

    def compute(self) -> None:
        """The step; `sums` then holds the loss, its supervised tokens, and 1 where the update was left out."""
        self.optimizer.zero_grad(set_to_none=True)
        enabled = self.stage.precision == "bf16"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False),
            sdpa_kernel(ATTENTION),
        ):
            total, count = self.objective(self.model, self.batch)
        total.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.stack(norms).double().norm() / count
        scale = (self.stage.clip / (norm + 1e-6)).clamp(max=1.0) / count
        spoilt = ~(total.isfinite() & scale.isfinite())
        self.optimizer.found_inf = spoilt.float()  # pyright: ignore[reportAttributeAccessIssue]
        torch._foreach_mul_(gradients, scale.float())  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        self.sums.copy_(torch.stack([total.detach().double(), count.double(), spoilt.double()]))

    def record(self) -> Callable[[], None]:
        """The step as a graph, the model and the optimiser being left as they were."""
        before = [p.detach().clone() for p in self.parameters]
        try:
            return record_graph(self.compute)
        finally:
            self.start_again(before)

    @torch.no_grad()
    def start_again(self, weights: list[Tensor]) -> None:
        """These weights, and an optimiser that has seen nothing, in the places where they are."""
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()
