"""The stages: which parameters each one trains, and how (paper Sec. 4.1).

"align" trains the connector between two frozen parts; "finetune" trains connector and language model. The
vision tower stays frozen in both. The paper takes its parts from the public; models too small to have public
parts make their own first: "language" trains the language model alone, "pretrain" everything.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn
from torch.nn import Parameter

from vlmamba.mamba import Recompute
from vlmamba.train.adapters import MARK, Lora

StageName = Literal["teacher", "pretrain", "language", "align", "finetune"]
Precision = Literal["bf16", "float32"]
Parallel = Literal["ddp", "fsdp", "fsdp-grad-op"]
Optimizer = Literal["adamw", "adamw8bit"]

# Prefixes of the names of the parameters that a stage trains.
TRAINED: dict[StageName, tuple[str, ...]] = {
    "teacher": ("",),
    "pretrain": ("",),
    "language": ("model.language_model.", "lm_head."),
    "align": ("model.connector.",),
    "finetune": ("model.connector.", "model.language_model.", "lm_head."),
}


@dataclass(frozen=True)
class StageConfig:
    """One stage of training. The defaults are LLaVA-1.5's (scripts/v1_5), which the paper follows."""

    name: StageName
    lr: float
    batch_size: int  # samples of a batch, or packed rows
    steps: int | None = None  # optimiser steps; give this or epochs
    epochs: float | None = None
    accumulation: int = 1  # batches of one optimiser step, over all processes together
    max_length: int = 2048  # tokens of a row, image tokens included
    warmup_ratio: float = 0.03
    min_lr_ratio: float = 0.0  # the cosine ends at this share of lr
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0  # largest norm of the whole gradient
    optimizer: Optimizer = "adamw"  # adamw8bit: moments of eight bits (train/optimizer.py)
    precision: Precision = "bf16"  # bf16: autocast over float32 master weights
    recompute: Recompute = (
        "nothing"  # what of a block is not kept for the backward pass: scan, mixer
    )
    # How several processes share the model: ddp: each has the whole; fsdp: each has a shard and gathers a block's
    # weights for as long as it computes with them; fsdp-grad-op: keeps them gathered until the step's end.
    parallel: Parallel = "ddp"
    shard_tower: bool = False  # a frozen tower too; without it every process keeps a whole one
    average: float = (
        0.0  # decay of a running average of the weights, which the stage ends with; 0: none
    )
    max_skipped: int = 0  # updates that may be left out because they were not finite
    compile: bool = False  # torch.compile, where the stage's trainee has parts that gain from it
    # Loss and gradients of a step replayed from a CUDA graph: batches of one shape, one process, a small model whose
    # launches outlast their work (train/replay.py).
    replay: bool = False
    lora: Lora = Lora()  # noqa: RUF009 - frozen; adapters instead of the language model itself
    seed: int = 0
    workers: int = 2  # threads that prepare batches; 0: the loop does it itself
    log_interval: int = 10  # steps
    checkpoint_interval: int = 500  # steps
    keep_checkpoints: int = 2
    sample_file: str | None = None  # held-out samples in LLaVA's format, asked while training runs
    sample_images: str = "."  # the folder that their picture paths start from
    sample_count: int = 4
    sample_interval: int = 500  # steps
    trackers: tuple[str, ...] = ()  # tensorboard, trackio, wandb

    def __post_init__(self) -> None:
        if self.name not in get_args(StageName):
            raise ValueError(
                f"stage {self.name!r} is unknown: use one of {', '.join(get_args(StageName))}"
            )
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision {self.precision!r} is unknown: use bf16 or float32")
        if self.parallel not in get_args(Parallel):
            raise ValueError(
                f"parallel {self.parallel!r} is unknown: use one of {', '.join(get_args(Parallel))}"
            )
        if self.recompute not in get_args(Recompute):
            raise ValueError(
                f"recompute {self.recompute!r} is unknown: use one of {', '.join(get_args(Recompute))}"
            )
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(
                f"optimizer {self.optimizer!r} is unknown: use one of {', '.join(get_args(Optimizer))}"
            )
        if self.optimizer == "adamw8bit" and (self.parallel != "ddp" or self.max_skipped):
            raise ValueError(
                f"stage {self.name}: adamw8bit takes whole tensors and leaves out no update: "
                f"--set {self.name}.parallel=ddp --set {self.name}.max_skipped=0, or optimizer=adamw"
            )
        if self.lora.rank and self.name not in ("language", "finetune"):
            raise ValueError(f"stage {self.name} does not train the language model: lora.rank is 0")
        if self.lora.rank and self.parallel != "ddp":
            raise ValueError(
                f"stage {self.name}: adapters and frozen weights differ in type, which FSDP cannot shard: "
                f"--set {self.name}.parallel=ddp"
            )
        if self.replay and self.accumulation > 1:
            raise ValueError(
                f"stage {self.name}: a replayed step is one batch: --set {self.name}.replay=false, or accumulation=1"
            )
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"stage {self.name} needs steps or epochs, and not both")
        for name in ("lr", "batch_size", "accumulation", "max_length", "log_interval", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("checkpoint_interval", "keep_checkpoints", "sample_interval", "sample_count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("steps", "epochs"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("warmup_ratio", "min_lr_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("workers", "max_skipped"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}")

        if self.average and self.parallel != "ddp":
            raise ValueError(f"average needs whole weights: use parallel=ddp, not {self.parallel}")

    def batches_each(self, world: int) -> int:
        """How many batches of an optimiser step each of `world` processes takes.

        Raises ValueError when they cannot be shared equally; the whole step is the same for any number of processes.
        """
        if self.accumulation % world:
            raise ValueError(
                f"stage {self.name}: {self.accumulation} batches a step (accumulation) cannot be shared by {world} "
                f"processes: --set {self.name}.accumulation={world * -(-self.accumulation // world)}, and a "
                "batch_size that keeps their product"
            )
        return self.accumulation // world

    def total_steps(self, batches_per_epoch: int) -> int:
        """Optimiser steps of the stage over data of that many batches an epoch."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * batches_per_epoch / self.accumulation))


def learning_rate(stage: StageConfig, step: int, total: int) -> float:
    """The rate of step 0, 1, ...: linear warm-up, then a half cosine down to min_lr_ratio.

    Unlike transformers' schedule, the first step already moves and the last one still does.
    """
    warmup = math.ceil(stage.warmup_ratio * total)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    floor = stage.min_lr_ratio
    return stage.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def freeze_for(model: nn.Module, stage: StageName) -> dict[str, Parameter]:
    """Sets requires_grad as the stage asks, and returns the trained parameters by name (tied ones once).

    Where the model has adapters, they train in the language model's place.
    """
    trained = {}
    named = list(model.named_parameters())
    adapted = any(MARK in name for name, _ in named)
    for name, parameter in named:
        instead = not adapted or MARK in name or not name.startswith(TRAINED["language"])
        parameter.requires_grad_(name.startswith(TRAINED[stage]) and instead)
        if parameter.requires_grad:
            trained[name] = parameter
    if not trained:
        raise ValueError(f"stage {stage} trains {TRAINED[stage]}, but the model has no such part")
    return trained
