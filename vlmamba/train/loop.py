"""The training loop: one stage of any model over any numbered batches, stopped and resumed at will."""

import logging
import math
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmamba.data.batches import Batch, Batches, in_order
from vlmamba.data.samples import Budget, TooManyBadError
from vlmamba.model import VLMamba
from vlmamba.train import checkpoint
from vlmamba.train.average import RunningAverage
from vlmamba.train.checkpoint import Checkpoint
from vlmamba.train.costs import costs, peak_flops
from vlmamba.train.held_out import HeldOut, Seen
from vlmamba.train.journal import Interval, Journal, cut_log, median_step
from vlmamba.train.optimizer import build_optimizer, moments, restore_moments
from vlmamba.train.parallel import shared_out
from vlmamba.train.ranks import Ranks
from vlmamba.train.saver import Saver, share_on_host
from vlmamba.train.signals import StopRequest
from vlmamba.train.stages import StageConfig, freeze_for, learning_rate
from vlmamba.train.step import NonFiniteError, Objective, Stepper
from vlmamba.train.summary import summarise
from vlmamba.train.update import Update

log = logging.getLogger("vlmamba")


@dataclass(frozen=True)
class StageResult:
    """step: optimiser steps done; finished: whether that is all of them; losses: mean loss of each logged interval.

    seconds: of this process, all in all; step_seconds: of a step, the median without the first two.
    """

    step: int
    finished: bool
    losses: dict[int, float]
    seconds: float
    step_seconds: float = math.nan


def language_loss(model: VLMamba, batch: Batch) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy of a VL-Mamba, summed over supervised tokens, and their number.

    A frozen tower runs without recording anything for the backward pass; `batch.features` spares it altogether.
    A batch without pictures sends a blank one through tower and connector and uses nothing of it: every process then
    has a gradient for every parameter, and the optimiser does the same however texts fall to processes.
    """
    core = model.model
    features, pixels = batch.features, batch.pixel_values
    blank = features is None and pixels is None and _trained(core.connector)
    if blank:
        size = core.config.vision.image_size
        shape = (1, core.config.vision.num_channels, size, size)
        pixels = torch.zeros(shape, device=batch.input_ids.device)
    if pixels is not None:
        with nullcontext() if _trained(core.vision_tower) else torch.no_grad():
            features = core.vision_tower(pixels)
    embeds = None if features is None else core.connector(features, core.config.vision.grid)
    if blank and embeds is not None:
        embeds = embeds[:0]
    hidden = core(
        batch.input_ids, image_embeds=embeds, attention_mask=batch.attention_mask, reset=batch.reset
    )
    return model.supervised_loss(hidden, batch.labels)


def _trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def run_stage(
    model: nn.Module,
    batches: Batches,
    stage: StageConfig,
    directory: Path | None = None,
    *,
    objective: Objective = language_loss,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    ranks: Ranks | None = None,
    held_out: HeldOut | None = None,
) -> StageResult:
    """Trains the parameters that `stage` names, in place, on the device where the model is.

    Shards are put back into the model once the stage is finished; a stopped one leaves a checkpoint.

    directory: takes `log.jsonl`, `checkpoints/` and the report of a non-finite step; None keeps nothing.
    objective: see `Objective`; the gradient is that of the mean over all supervised tokens of an optimiser
    step, accumulated batches included. config: kept in the checkpoints beside the stage's own.
    resume: goes on from the newest whole checkpoint in `directory`, bit for bit; from the start if it has none.
    ranks: the processes that share the work, each of which calls this with the same arguments; to be sharded, the
    model may stay on the CPU. None: this process alone.
    held_out: samples that a VL-Mamba is asked every `stage.sample_interval` steps and at the end.
    SIGTERM or Ctrl-C ends the stage after the step in hand, with a checkpoint and `finished` false.

    Raises NonFiniteError before the update that a non-finite loss or gradient would spoil, or, where the stage may
    leave out `max_skipped` of them, before one more; TooManyBadError when more samples could not be read than the
    batches may lack; ValueError when a checkpoint does not fit the model or the batches of a step cannot be shared
    equally.
    """
    alone = Ranks(next(model.parameters()).device)
    run = _Run(model, batches, stage, directory, objective, config or {}, ranks or alone)
    found = run.find() if resume else None
    if found is not None and found.finished:
        return StageResult(found.step, True, {}, 0.0)
    return run.go(found, held_out)


class _Run:
    """One stage under way."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        stage: StageConfig,
        directory: Path | None,
        objective: Objective,
        config: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self.model, self.batches, self.stage, self.ranks = model, batches, stage, ranks
        self.directory, self.objective = directory, objective
        self.config = {**config, "stage": asdict(stage)}
        self.budget: Budget | None = getattr(batches, "budget", None)
        self.unreadable = 0  # samples so far, of all processes
        self.total, self.each = stage.total_steps(len(batches)), stage.batches_each(ranks.world)
        self.trained = freeze_for(model, stage.name)
        self.frozen = checkpoint.frozen_fingerprint(model) if directory is not None else ""
        language_model = getattr(getattr(model, "model", None), "language_model", None)
        if language_model is not None:
            language_model.recompute = stage.recompute
        model.train()
        if directory is not None and ranks.first:
            directory.mkdir(parents=True, exist_ok=True)

    def go(self, found: Checkpoint | None, held_out: HeldOut | None) -> StageResult:
        stage, ranks, began = self.stage, self.ranks, time.perf_counter()
        start = self.begin(found)
        losses: dict[int, float] = {}
        interval, ends = self.interval(), []
        step, norm = start, math.nan
        waiting: deque[Update] = deque()
        with ranks.together():
            journal = Journal(stage, start, self.total, self.directory, ranks.first, self.config)
        try:
            with (
                closing(self.supply(start)) as supply,
                StopRequest(quiet=not ranks.first) as stop,
                journal,
            ):
                for step in range(start + 1, self.total + 1):
                    with ranks.together():
                        micro = [next(supply) for _ in range(self.each)]
                    self.hold_to_budget(micro, step, start)
                    lr = learning_rate(stage, step - 1, self.total)
                    waiting.append(self.stepper.launch(micro, step, lr))
                    stopping, writing = ranks.any(stop.requested, self.saver.busy)
                    if not writing:
                        self.saver.finish()
                    last = step == self.total or stopping
                    save = step % stage.checkpoint_interval == 0 or last
                    shown = step % stage.log_interval == 0 or save
                    # A stage that may skip updates reads their figures one step late: it never waits for the device.
                    while len(waiting) > (1 if stage.max_skipped and not shown else 0):
                        norm = self.stepper.take_in(waiting.popleft(), interval)
                    if shown:
                        record = {"stage": stage.name, "step": step, "lr": lr, "grad_norm": norm}
                        record |= interval.close() | self.device_memory()
                        losses[step] = record["loss"]
                        journal.write(record)
                    if held_out and not stopping and (step % stage.sample_interval == 0 or last):
                        with interval.paused():
                            journal.show(step, self.look(held_out))
                    journal.advance(step)
                    ends.append(time.perf_counter())
                    if save:
                        self.save(step)
                    if stopping:
                        break
                self.saver.finish()
        except (NonFiniteError, TooManyBadError):
            self.saver.finish()
            raise
        finally:
            self.saver.close()
        if step == self.total:
            self.shared.put_back(self.trained)
        result = StageResult(
            step, step == self.total, losses, time.perf_counter() - began, median_step(ends)
        )
        if self.directory is not None and ranks.first:
            summarise(self.directory, stage, result, self.trained, ranks)
        return result

    def look(self, held_out: HeldOut) -> Seen:
        """What the model says to held-out samples by now."""
        with self.stepper.autocast:
            return self.shared.look(held_out.look, self.ranks)

    def interval(self) -> Interval:
        """Sums for the log, with what is needed to tell MFU, where that is known."""
        peak = peak_flops(self.ranks.device)
        if peak is None or not isinstance(self.model, VLMamba):
            return Interval()
        return Interval(costs(self.model.config, self.stage), self.ranks.world * peak)

    def device_memory(self) -> dict[str, float]:
        """Gigabytes of the GPU that tensors took at most since the run began; nothing elsewhere."""
        if self.ranks.device.type != "cuda":
            return {}
        return {"memory_gb": round(torch.cuda.max_memory_allocated(self.ranks.device) / 1e9, 2)}

    def hold_to_budget(self, micro: list[Batch], step: int, start: int) -> None:
        """Counts the samples that step's batches lack; when too many, keeps what was done before and raises."""
        if self.budget is None:
            return
        lacking = sum(len(batch.skipped) for batch in micro)
        unreadable = self.unreadable + int(self.ranks.sum(torch.tensor(lacking)))
        epochs = 1 + (step * self.stage.accumulation - 1) // len(self.batches)
        too_many = self.budget.exceeded(unreadable, epochs)
        if too_many is not None:
            done = step - 1
            if done > start and done % self.stage.checkpoint_interval:
                self.save(done)
            raise too_many
        self.unreadable = unreadable

    def supply(self, start: int) -> Generator[Batch, None, None]:
        """This process's batches, in order: of the k batches of every step, number rank, rank + world, ..."""
        k, ranks = self.stage.accumulation, self.ranks
        indices = range(start * k + ranks.rank, self.total * k, ranks.world)
        pin = ranks.device.type == "cuda"
        return in_order(self.batches, indices, self.stage.workers, pin)

    def save(self, step: int) -> None:
        """Begins to write a checkpoint; the last one holds the average, where there is one, in the weights' place."""
        if self.average is not None and step == self.total:
            self.average.put_in_place()
        if self.directory is None:
            return
        shared, rank = self.shared, self.ranks.rank
        kinds = {
            "weights": share_on_host(checkpoint.trained_weights(shared.model).items(), shared),
            "optimizer": share_on_host(moments(self.optimizer, self.parameters), shared),
            "rng": checkpoint.random_state(rank),
        }
        if self.average is not None:
            kinds["average"] = share_on_host(self.average.weights.items(), shared)
        manifest = {
            "step": step, "total_steps": self.total, "frozen": self.frozen,
            "processes": self.ranks.world, "config": self.config, "unreadable": self.unreadable,
        }  # fmt: skip
        self.saver.begin(step, kinds, manifest)

    def find(self) -> Checkpoint | None:
        """The newest whole checkpoint, its weights put into the model; None when there is none.

        Raises ValueError when it is of another stage, of another model or over other frozen weights.
        """
        directory = self.directory
        if directory is None:
            raise ValueError("resume needs the directory of the stage")
        found = self.ranks.from_first(lambda: checkpoint.load_newest(directory / "checkpoints"))
        if found is None:
            return None
        with self.ranks.together():
            if found.total_steps != self.total:
                raise ValueError(
                    f"{found.path} is of a stage of {found.total_steps} steps, this one has {self.total}: "
                    "resume with the settings it was started with"
                )
            if found.frozen != self.frozen:
                raise ValueError(
                    f"{found.path} was trained over other frozen weights than this model's: "
                    "resume with the base it was started from"
                )
            checkpoint.restore_weights(self.model, found)
        return found

    def begin(self, found: Checkpoint | None) -> int:
        """Shares the model out and makes the optimiser, as the checkpoint left it; returns the steps done."""
        self.model.zero_grad(set_to_none=True)
        self.shared = shared_out(self.model, self.ranks, self.stage)
        named = dict(self.shared.model.named_parameters())
        self.parameters = {name: named[name] for name in self.trained}
        self.optimizer = build_optimizer(self.shared.model, self.stage)
        decay = self.stage.average
        self.average = RunningAverage(self.parameters, decay) if decay else None
        self.stepper = Stepper(
            self.shared, self.optimizer, self.stage, self.objective, self.average, self.directory
        )
        where = Path() if self.directory is None else self.directory / "checkpoints"
        self.saver = Saver(where, self.ranks, self.stage.keep_checkpoints)
        if found is None:
            if (
                not self.ranks.first
            ):  # the first goes on from the recipe's seed, each other draws its own
                torch.manual_seed(hash((self.stage.seed, self.ranks.rank)))
            return 0
        restore_moments(self.optimizer, self.parameters, found.optimizer)
        if self.average is not None:
            self.average.restore(found.average)
        self.unreadable = found.unreadable
        checkpoint.restore_random_state(found, self.ranks.rank, self.stage.seed)
        if self.ranks.first and self.directory is not None:
            cut_log(self.directory, found.step)
            log.info("stage %s goes on from step %d (%s)", self.stage.name, found.step, found.path)
        return found.step
