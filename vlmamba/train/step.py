"""One optimiser step over the batches of all processes, or the reason why it was not made."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmamba.data.batches import Batch
from vlmamba.train.average import RunningAverage
from vlmamba.train.journal import Done, Interval
from vlmamba.train.parallel import Whole
from vlmamba.train.replay import ReplayedPasses
from vlmamba.train.stages import StageConfig
from vlmamba.train.update import Update

log = logging.getLogger("vlmamba")

# (model, batch) -> the loss summed over supervised tokens, and their number, both as scalars on the device.
Objective = Callable[[Any, Any], tuple[Tensor, Tensor]]


# All but cuDNN's, whose backward pass returns NaN now and then at lengths such as the 64 patches of a small
# tower (pytorch/pytorch#196678); the others take as long.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite; the update was not made."""


class Stepper:
    """Makes the optimiser steps of a stage; `directory` takes the report of one that is not finite.

    average: is told of every step that was made.
    """

    def __init__(
        self,
        shared: Whole,
        optimizer: torch.optim.Optimizer,
        stage: StageConfig,
        objective: Objective,
        average: RunningAverage | None,
        directory: Path | None,
    ) -> None:
        self.shared, self.ranks = shared, shared.ranks
        self.optimizer, self.stage, self.objective = optimizer, stage, objective
        self.average, self.directory = average, directory
        self.skipped = 0
        self.replays = stage.replay and self.ranks.world == 1 and self.ranks.device.type == "cuda"
        self.replayed: ReplayedPasses | None = None
        self.autocast = torch.autocast(
            self.ranks.device.type, torch.bfloat16, enabled=stage.precision == "bf16",
            cache_enabled=not self.replays,  # a recorded cast must not be taken from the run before
        )  # fmt: skip

    def launch(self, micro: Sequence[Batch], step: int, lr: float) -> Update:
        """Learns from this process's batches, while the others learn from theirs; `take_in` tells what came of it.

        The summed losses are differentiated as they are and the gradient is divided once by the number of
        supervised tokens in the whole step, so that every token weighs the same whatever batch it came in.
        Loss, norm and count reach the host in one transfer, the only time a step waits for the device: it is
        what lets a bad step stop before its update, and costs one queue's latency against the whole step.
        A stage that may skip updates does not wait: the fused optimiser itself leaves out what is not finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        passes = self.accumulate(micro)
        gradients = self.shared.complete()
        counted = [
            float(sum(batch.token_count for batch in micro)),
            float(sum(batch.picture_count for batch in micro)),
        ]
        figures = [*passes.sum(0), self.shared.square_sum(), *passes.new_tensor(counted)]
        sums = self.ranks.sum(torch.stack([figure.to(passes) for figure in figures]))
        update = Update(step, micro, passes, sums, self.shared.share)
        if self.stage.max_skipped:
            loss, count, squares, *_ = sums.unbind()
            norm = squares.sqrt() * self.shared.share / count
            scale = (self.stage.clip / (norm + 1e-6)).clamp(max=1.0) * self.shared.share / count
            spoilt = ~(loss.isfinite() & scale.isfinite())
            self.optimizer.found_inf = spoilt.float()  # pyright: ignore[reportAttributeAccessIssue]
            scale = scale.float()
        else:
            done = update.read()
            if not _is_finite(done):
                self.refuse(update, done)
            scale = min(1.0, self.stage.clip / (done.norm + 1e-6))
            scale *= self.shared.share / done.supervised
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        if self.average is not None:
            self.average.update(step)
        return update

    def take_in(self, update: Update, interval: Interval) -> float:
        """Counts a launched step; returns its gradient norm."""
        done = update.read()
        if not self.stage.max_skipped or _is_finite(done):
            interval.add(done)
            return done.norm
        self.skipped += 1
        if self.skipped > self.stage.max_skipped:
            self.refuse(update, done)
        log.warning(
            "step %d of stage %s left out: loss %s, gradient norm %s (%d of %d allowed)",
            update.step, self.stage.name, done.loss, done.norm, self.skipped, self.stage.max_skipped,
        )  # fmt: skip
        return done.norm

    def accumulate(self, micro: Sequence[Batch]) -> Tensor:
        """Adds up the gradients of this process's batches; returns (batches, 2) float64: each one's loss and count."""
        self.shared.forget()
        if self.replays:
            (batch,) = micro
            passes = self.replay(batch.to(self.ranks.device))
            if passes is not None:
                return passes[None]
        passes = []
        for number, batch in enumerate(micro, 1):
            with self.shared.accumulating(last=number == len(micro)):
                passes.append(self.passes(batch.to(self.ranks.device)))
        return torch.stack(passes)

    def passes(self, batch: Batch) -> Tensor:
        """Both passes over a batch; returns (2,) float64, its loss and count."""
        with self.autocast, sdpa_kernel(ATTENTION):
            total, count = self.shared.call(self.objective, batch)
        total.backward()
        return torch.stack([total.detach().double(), count.double()])

    def replay(self, batch: Batch) -> Tensor | None:
        """As `passes`, by a graph that the first batch is recorded into; None where that fails."""
        if self.replayed is None:
            model = self.shared.model
            trained = [p for p in model.parameters() if p.requires_grad]
            try:
                self.replayed = ReplayedPasses(self.passes, trained, list(model.buffers()), batch)
            except RuntimeError as error:
                log.warning(
                    "%s without a CUDA graph: %s", self.stage.name, str(error).split("\n")[0]
                )
                self.replays = False
                self.shared.forget()
                return None
        return self.replayed(batch)

    def refuse(self, update: Update, done: Done) -> NoReturn:
        """Writes which samples spoilt the step, of all processes, and raises NonFiniteError in each."""
        mine = [
            {"loss": str(total), "supervised": int(n), "samples": list(batch.sample_ids)}
            for (total, n), batch in zip(update.passes.tolist(), update.micro, strict=True)
        ]
        batches = [one for rank in self.ranks.gather(mine) for one in rank]
        where, step, (loss, norm) = "", update.step, (done.loss, done.norm)
        if self.directory is not None:
            path = self.directory / f"non-finite-step-{step:08d}.json"
            where = f"; its samples are in {path}"
            if self.ranks.first:
                report = {
                    "stage": self.stage.name, "step": step, "loss": str(loss), "grad_norm": str(norm),
                    "batches": batches,
                }  # fmt: skip
                path.write_text(json.dumps(report, indent=1))
        what = (
            f"loss {loss}, gradient norm {norm}"
            if done.supervised
            else "no supervised token to learn from"
        )
        raise NonFiniteError(
            f"step {step} of stage {self.stage.name}: {what}; stopped before the update{where}"
        )


def _is_finite(done: Done) -> bool:
    return math.isfinite(done.loss) and math.isfinite(done.norm)
