"""The training loop: one stage of any model over any numbered batches, stopped and resumed at will."""

import json
import logging
import time
from collections.abc import Callable, Mapping
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
from vlmamba.train.progress import Progress
from vlmamba.train.signals import StopRequest
from vlmamba.train.stages import StageConfig, build_optimizer, freeze_for, learning_rate

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
    """
    core = model.model
    features = batch.features
    if batch.pixel_values is not None:
        frozen = not any(p.requires_grad for p in core.vision_tower.parameters())
        with torch.no_grad() if frozen else nullcontext():
            features = core.vision_tower(batch.pixel_values)
    embeds = None if features is None else core.connector(features, core.config.vision.grid)
    hidden = core(
        batch.input_ids, image_embeds=embeds, attention_mask=batch.attention_mask, reset=batch.reset
    )
    return model.supervised_loss(hidden, batch.labels)


def run_stage(
    model: nn.Module,
    batches: Batches,
    stage: StageConfig,
    directory: Path | None = None,
    *,
    objective: Objective = language_loss,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> StageResult:
    """Trains the parameters that `stage` names, in place, on the device where the model is.

    directory: takes `log.jsonl`, `checkpoints/` and the report of a non-finite step; None keeps nothing.
    objective: see `Objective`; the gradient is that of the mean over all supervised tokens of an optimiser
    step, accumulated batches included. config: kept in the checkpoints beside the stage's own.
    resume: goes on from the newest whole checkpoint in `directory`, bit for bit; from the start if it has none.
    SIGTERM or Ctrl-C ends the stage after the step in hand, with a checkpoint and `finished` false.

    Raises NonFiniteError before the update that a non-finite loss or gradient would spoil, and ValueError
    when a checkpoint does not fit the model.
    """
    total = stage.total_steps(len(batches))
    run = _Run(
        model, stage, total, directory, objective, {**(config or {}), "stage": asdict(stage)}
    )
    start = run.restore() if resume else 0
    if start >= total:
        return StageResult(start, True, {}, 0.0)
    return run.go(batches, start)


class _Run:
    """One stage under way."""

    def __init__(
        self,
        model: nn.Module,
        stage: StageConfig,
        total: int,
        directory: Path | None,
        objective: Objective,
        config: Mapping[str, Any],
    ) -> None:
        self.model, self.stage, self.total = model, stage, total
        self.directory, self.objective, self.config = directory, objective, config
        self.parameters = freeze_for(model, stage.name)
        self.optimizer = build_optimizer(model, stage)
        self.device = next(iter(self.parameters.values())).device
        language_model = getattr(getattr(model, "model", None), "language_model", None)
        if language_model is not None:
            language_model.gradient_checkpointing = stage.gradient_checkpointing
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)

    def go(self, batches: Batches, start: int) -> StageResult:
        stage, began = self.stage, time.perf_counter()
        losses: dict[int, float] = {}
        interval = _Interval()
        self.model.train()
        k = stage.accumulation
        indices = range(start * k, self.total * k)
        pin = self.device.type == "cuda"
        step = start
        with (
            closing(in_order(batches, indices, stage.workers, pin)) as supply,
            StopRequest() as stop,
            Progress(stage.name, start, self.total) as progress,
        ):
            for step in range(start + 1, self.total + 1):
                micro = [next(supply) for _ in range(k)]
                lr = learning_rate(stage, step - 1, self.total)
                loss, norm, count = self.step(micro, step, lr)
                interval.add(loss, count, sum(batch.token_count for batch in micro))
                last = step == self.total or stop.requested
                save = step % stage.checkpoint_interval == 0 or last
                if step % stage.log_interval == 0 or save:
                    record = {"stage": stage.name, "step": step, "lr": lr, "grad_norm": norm}
                    record |= interval.close()
                    losses[step] = record["loss"]
                    self.write_log(record)
                    progress.show(record)
                progress.advance(step)
                if save:
                    self.save(step)
                if stop.requested:
                    break
        return StageResult(step, step == self.total, losses, time.perf_counter() - began)

    def step(self, micro: list[Batch], step: int, lr: float) -> tuple[float, float, int]:
        """One optimiser step; returns mean loss, gradient norm and supervised tokens.

        The summed losses are differentiated as they are and the gradient is divided once by the number of
        supervised tokens in the whole step, so that every token weighs the same whatever batch it came in.
        Loss, norm and count reach the host in one transfer, the only time a step waits for the device: it is
        what lets a bad step stop before its update, and costs one queue's latency against the whole step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        total, count = self.accumulate(micro)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients) / count
        loss_value, norm_value, count_value = torch.stack(
            [t.float() for t in (total / count, norm, count)]
        ).tolist()
        if not (_finite(loss_value) and _finite(norm_value)):
            self.refuse(micro, step, loss_value, norm_value, int(count_value))
        scale = min(1.0, self.stage.clip / (norm_value + 1e-6)) / count_value
        torch._foreach_mul_(gradients, scale)  # pyright: ignore[reportPrivateImportUsage]
        self.optimizer.step()
        return loss_value, norm_value, int(count_value)

    def accumulate(self, micro: list[Batch]) -> tuple[Tensor, Tensor]:
        """Sums loss, count and gradients over the batches of one step."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        count = torch.zeros((), device=self.device, dtype=torch.long)
        autocast = torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"
        )
        for batch in micro:
            with autocast, sdpa_kernel(ATTENTION):
                batch_total, batch_count = self.objective(self.model, batch.to(self.device))
            batch_total.backward()
            total = total + batch_total.detach()
            count = count + batch_count
        return total, count

    def refuse(
        self, micro: list[Batch], step: int, loss: float, norm: float, count: int
    ) -> NoReturn:
        """Writes which samples spoilt the step, and raises NonFiniteError."""
        report = {
            "stage": self.stage.name,
            "step": step,
            "loss": str(loss),
            "grad_norm": str(norm),
            "samples": [list(batch.sample_ids) for batch in micro],
        }
        where = ""
        if self.directory is not None:
            path = self.directory / f"non-finite-step-{step:08d}.json"
            path.write_text(json.dumps(report, indent=1))
            where = f"; its samples are in {path}"
        what = (
            f"loss {loss}, gradient norm {norm}" if count else "no supervised token to learn from"
        )
        raise NonFiniteError(
            f"step {step} of stage {self.stage.name}: {what}; stopped before the update{where}"
        )

    def save(self, step: int) -> None:
        if self.directory is not None:
            checkpoint.save(
                self.directory / "checkpoints", self.model, self.optimizer, step, self.total,
                self.config, self.stage.keep_checkpoints,
            )  # fmt: skip

    def restore(self) -> int:
        """Goes back to the newest whole checkpoint; returns its step, 0 when there is none."""
        if self.directory is None:
            raise ValueError("resume needs the directory of the stage")
        found = checkpoint.load_newest(self.directory / "checkpoints")
        if found is None:
            return 0
        if found.total_steps != self.total:
            raise ValueError(
                f"{found.path} is of a stage of {found.total_steps} steps, this one has {self.total}: "
                "resume with the settings it was started with"
            )
        checkpoint.restore(self.model, self.optimizer, found)
        self.cut_log(found.step)
        log.info("stage %s goes on from step %d (%s)", self.stage.name, found.step, found.path)
        return found.step

    def write_log(self, record: Mapping[str, Any]) -> None:
        if self.directory is not None:
            with (self.directory / "log.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")

    def cut_log(self, step: int) -> None:
        """Drops the lines of steps that are about to be done again."""
        assert self.directory is not None
        path = self.directory / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            path.write_text("".join(f"{line}\n" for line in kept))


class _Interval:
    """Sums between two lines of the log."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.loss, self.supervised, self.tokens, self.since = 0.0, 0, 0, time.perf_counter()

    def add(self, loss: float, supervised: int, tokens: int) -> None:
        self.loss += loss * supervised
        self.supervised += supervised
        self.tokens += tokens

    def close(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.since
        record = {
            "loss": self.loss / self.supervised,
            "supervised": self.supervised,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / seconds, 1),
        }
        self.begin()
        return record


def _finite(value: float) -> bool:
    return abs(value) < float("inf")
