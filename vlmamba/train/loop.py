"""The training loop: one stage of any model over any numbered batches, stopped and resumed at will."""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vlmamba.data.batches import Batch, Batches, in_order
from vlmamba.model import VLMamba
from vlmamba.train import checkpoint
from vlmamba.train.average import RunningAverage
from vlmamba.train.checkpoint import Checkpoint
from vlmamba.train.journal import Done, Interval, Journal, cut_log
from vlmamba.train.parallel import shared_out
from vlmamba.train.ranks import Ranks
from vlmamba.train.saver import Saver, share_on_host
from vlmamba.train.signals import StopRequest
from vlmamba.train.stages import StageConfig, build_optimizer, freeze_for, learning_rate
from vlmamba.train.update import Update

log = logging.getLogger("vlmamba")

# (model, batch) -> the loss summed over supervised tokens, and their number, both as scalars on the device.
Objective = Callable[[Any, Any], tuple[Tensor, Tensor]]


# All but cuDNN's, whose backward pass returns NaN now and then at lengths such as the 64 patches of a small
# tower (pytorch/pytorch#196678); the others take as long.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite; the update was not made."""


@dataclass(frozen=True)
class StageResult:
    """step: optimiser steps done; finished: whether that is all of them; losses: mean loss of each logged interval."""

    step: int
    finished: bool
    losses: dict[int, float]
    seconds: float


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
) -> StageResult:
    """Trains the parameters that `stage` names, in place, on the device where the model is.

    directory: takes `log.jsonl`, `checkpoints/` and the report of a non-finite step; None keeps nothing.
    objective: see `Objective`; the gradient is that of the mean over all supervised tokens of an optimiser
    step, accumulated batches included. config: kept in the checkpoints beside the stage's own.
    resume: goes on from the newest whole checkpoint in `directory`, bit for bit; from the start if it has none.
    ranks: the processes that share the work, each of which calls this with the same arguments; to be sharded, the
    model may stay on the CPU. None: this process alone.
    SIGTERM or Ctrl-C ends the stage after the step in hand, with a checkpoint and `finished` false.

    Raises NonFiniteError before the update that a non-finite loss or gradient would spoil, or, where the stage may
    leave out `max_skipped` of them, before one more; ValueError when a checkpoint does not fit the model or the
    batches of a step cannot be shared equally.
    """
    alone = Ranks(next(model.parameters()).device)
    run = _Run(model, batches, stage, directory, objective, config or {}, ranks or alone)
    found = run.find() if resume else None
    if found is not None and found.finished:
        return StageResult(found.step, True, {}, 0.0)
    return run.go(found)


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
        self.total, self.each = stage.total_steps(len(batches)), stage.batches_each(ranks.world)
        self.trained = freeze_for(model, stage.name)
        self.frozen = checkpoint.frozen_fingerprint(model) if directory is not None else ""
        language_model = getattr(getattr(model, "model", None), "language_model", None)
        if language_model is not None:
            language_model.recompute = stage.recompute
        model.train()
        if directory is not None and ranks.first:
            directory.mkdir(parents=True, exist_ok=True)

    def go(self, found: Checkpoint | None) -> StageResult:
        stage, ranks, began = self.stage, self.ranks, time.perf_counter()
        start = self.begin(found)
        losses: dict[int, float] = {}
        interval, step, norm = Interval(), start, math.nan
        waiting: deque[Update] = deque()
        try:
            with (
                closing(self.supply(start)) as supply,
                StopRequest(quiet=not ranks.first) as stop,
                Journal(stage, start, self.total, self.directory, ranks.first) as journal,
            ):
                for step in range(start + 1, self.total + 1):
                    with ranks.together():
                        micro = [next(supply) for _ in range(self.each)]
                    lr = learning_rate(stage, step - 1, self.total)
                    waiting.append(self.step(micro, step, lr))
                    stopping, writing = ranks.any(stop.requested, self.saver.busy)
                    if not writing:
                        self.saver.finish()
                    last = step == self.total or stopping
                    save = step % stage.checkpoint_interval == 0 or last
                    shown = step % stage.log_interval == 0 or save
                    # A stage that may skip updates reads their figures one step late: it never waits for the device.
                    while len(waiting) > (1 if stage.max_skipped and not shown else 0):
                        norm = self.take_in(waiting.popleft(), interval)
                    if shown:
                        record = {
                            "stage": stage.name,
                            "step": step,
                            "lr": lr,
                            "grad_norm": norm,
                        }
                        record |= interval.close()
                        losses[step] = record["loss"]
                        journal.write(record)
                    journal.advance(step)
                    if save:
                        self.save(step)
                    if stopping:
                        break
                self.saver.finish()
        except NonFiniteError:
            self.saver.finish()
            raise
        finally:
            self.saver.close()
        self.shared.put_back(self.trained)
        return StageResult(step, step == self.total, losses, time.perf_counter() - began)

    def supply(self, start: int) -> Generator[Batch, None, None]:
        """This process's batches, in order: of the k batches of every step, number rank, rank + world, ..."""
        k, ranks = self.stage.accumulation, self.ranks
        indices = range(start * k + ranks.rank, self.total * k, ranks.world)
        pin = ranks.device.type == "cuda"
        return in_order(self.batches, indices, self.stage.workers, pin)

    def step(self, micro: Sequence[Batch], step: int, lr: float) -> Update:
        """One optimiser step over the batches of all processes, launched.

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
        tokens = float(sum(batch.token_count for batch in micro))
        figures = [*passes.sum(0), self.shared.square_sum(), passes.new_tensor(tokens)]
        sums = self.ranks.sum(torch.stack([figure.to(passes) for figure in figures]))
        update = Update(step, micro, passes, sums, self.shared.share)
        if self.stage.max_skipped:
            loss, count, squares, _ = sums.unbind()
            norm = squares.sqrt() * self.shared.share / count
            scale = (self.stage.clip / (norm + 1e-6)).clamp(max=1.0) * self.shared.share / count
            spoilt = ~(loss.isfinite() & scale.isfinite())
            self.optimizer.found_inf = spoilt.float()  # pyright: ignore[reportAttributeAccessIssue]
            scale = scale.float()
        else:
            done = self.finite(update)
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

    def finite(self, update: Update) -> Done:
        """A step's figures; raises NonFiniteError unless they are finite."""
        done = update.read()
        if not _is_finite(done):
            self.refuse(update, done)
        return done

    def accumulate(self, micro: Sequence[Batch]) -> Tensor:
        """Adds up the gradients of this process's batches; returns (batches, 2) float64: each one's loss and count."""
        self.optimizer.zero_grad(set_to_none=True)
        device, passes = self.ranks.device, []
        autocast = torch.autocast(
            device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"
        )
        for number, batch in enumerate(micro, 1):
            with self.shared.accumulating(last=number == len(micro)):
                with autocast, sdpa_kernel(ATTENTION):
                    total, count = self.shared.call(self.objective, batch.to(device))
                total.backward()
            passes.append(torch.stack([total.detach().double(), count.double()]))
        return torch.stack(passes)

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

    def save(self, step: int) -> None:
        """Begins to write a checkpoint; the last one holds the average, where there is one, in the weights' place."""
        if self.average is not None and step == self.total:
            self.average.put_in_place()
        if self.directory is None:
            return
        shared, rank = self.shared, self.ranks.rank
        moments = (
            (f"{key}.{name}", value)
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        )
        kinds = {
            "weights": share_on_host(checkpoint.trained_weights(shared.model).items(), shared),
            "optimizer": share_on_host(moments, shared),
            "rng": checkpoint.random_state(rank),
        }
        if self.average is not None:
            kinds["average"] = share_on_host(self.average.weights.items(), shared)
        manifest = {
            "step": step, "total_steps": self.total, "frozen": self.frozen,
            "processes": self.ranks.world, "config": self.config,
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
        self.skipped = 0
        where = Path() if self.directory is None else self.directory / "checkpoints"
        self.saver = Saver(where, self.ranks, self.stage.keep_checkpoints)
        if found is None:
            if (
                not self.ranks.first
            ):  # the first goes on from the recipe's seed, each other draws its own
                torch.manual_seed(hash((self.stage.seed, self.ranks.rank)))
            return 0
        for key, value in found.optimizer.items():
            kind, name = key.split(".", 1)
            parameter = self.parameters[name]
            self.optimizer.state[parameter][kind] = self.shared.like(value, parameter)
        if self.average is not None:
            self.average.restore(found.average)
        checkpoint.restore_random_state(found, self.ranks.rank, self.stage.seed)
        if self.ranks.first and self.directory is not None:
            cut_log(self.directory, found.step)
            log.info("stage %s goes on from step %d (%s)", self.stage.name, found.step, found.path)
        return found.step


def _is_finite(done: Done) -> bool:
    return math.isfinite(done.loss) and math.isfinite(done.norm)
