"""Where rows are trained: parts made once, what the towers made of all pictures kept on the device, then run by run."""

import json
import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlmamba.ablation.exam import Exam, find_sets
from vlmamba.ablation.jobs import holding_lock
from vlmamba.ablation.outcomes import pack
from vlmamba.ablation.rows import VARIANTS, Variant
from vlmamba.ablation.scale import Scale
from vlmamba.config import ModelConfig, VisionLayout
from vlmamba.data.mini import MiniPictures
from vlmamba.eval.score import replace_file
from vlmamba.model import VLMamba
from vlmamba.processing import Processor
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.pool import Pool, PoolBatches, look
from vlmamba.train.ranks import Ranks
from vlmamba.train.recorded import run_recorded


class StoppedError(Exception):
    """The user stopped a stage; what it was part of is done anew next time."""


class Lab:
    """One process's share of the work, on one device, for the output folder `home`."""

    def __init__(self, scale: Scale, home: Path, device: torch.device, limit: int) -> None:
        self.scale, self.home, self.device, self.limit = scale, home, device, limit
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self._pools: dict[VisionLayout, Pool] = {}
        self._seen: dict[VisionLayout, Tensor] = {}

    @cached_property
    def processor(self) -> Processor:
        """The one processor of all rows, whose tokenizer the first process trains."""
        directory, recipe = self.home / "processor", self.scale.recipe
        with holding_lock(self.home / "processor.lock"):
            if not directory.exists():
                made = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
                partial = self.home / "processor.partial"
                made.save(partial)
                partial.replace(directory)
            return Processor.load(directory)

    @cached_property
    def exam(self) -> Exam:
        data = self.scale.stage("finetune").data
        assert isinstance(data, MiniPictures)
        sets = find_sets(data.packs, data.size, self.limit)
        exam = Exam.prepare(sets, self.processor, self.device)
        self._say(f"{len(exam.questions):,} questions in {len(exam.counts)} sets")
        return exam

    def tower(self, layout: VisionLayout) -> Path:
        return self.home / "parts" / f"tower-{layout}.safetensors"

    def language(self, size: str) -> Path:
        return self.home / "parts" / f"language-{size}.safetensors"

    def outcome(self, variant: str, seed: int) -> Path:
        return self.home / "runs" / f"{variant}-seed-{seed}.json"

    def make_tower(self, layout: VisionLayout) -> None:
        """Pre-trains the tower of a layout."""
        variant = next(v for v in VARIANTS.values() if v.layout == layout)
        model = self._fresh(self.scale.model(variant))
        took = self._train(model, "pretrain")
        _save(model.model.vision_tower.state_dict(), self.tower(layout))
        self._say(f"tower in {layout}'s layout: {took:.1f} s")

    def make_language(self, size: str) -> None:
        """Trains a language model of a size on conversations alone."""
        variant = next(v for v in VARIANTS.values() if v.size == size)
        model = self._fresh(self.scale.model(variant))
        took = self._train(model, "language")
        _save(model.model.language_model.state_dict(), self.language(size))
        self._say(f"language model, {size}: {took:.1f} s")

    def make_run(self, variant: Variant, seed: int) -> None:
        """Aligns, finetunes and examines a variant; the seed draws its connector and the order of its samples."""
        started = time.monotonic()
        config = self.scale.model(variant)
        torch.manual_seed(1000 + seed)
        model = VLMamba(config).to(self.device)
        core = model.model
        core.vision_tower.load_state_dict(load_file(self.tower(variant.layout)))
        core.language_model.load_state_dict(load_file(self.language(variant.size)))
        pool, seen = self._pool(variant.layout), self._views(variant.layout)
        seconds = {"parts": time.monotonic() - started}
        losses = {}
        for name in ("align", "finetune"):
            seconds[name], losses[name] = self._learn(model, pool, name, seed)
        begun = time.monotonic()
        outcomes = self.exam.take(model.eval().to(self.dtype), self.processor, seen)
        seconds["exam"] = time.monotonic() - begun
        record = {
            "variant": variant.name,
            "seed": seed,
            "connector_parameters": sum(p.numel() for p in core.connector.parameters()),
            "language_parameters": sum(p.numel() for p in core.language_model.parameters()),
            "device": self._device_name,
            "torch": torch.__version__,
            "losses": losses,
            "seconds": {name: round(took, 2) for name, took in seconds.items()},
            "exam": self.exam.digest,
            "outcomes": {name: pack(right) for name, right in outcomes.items()},
        }
        replace_file(self.outcome(variant.name, seed), json.dumps(record) + "\n")
        mean = 100 * sum(sum(r) / len(r) for r in outcomes.values()) / len(outcomes)
        times = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
        self._say(f"{variant.name}, seed {seed}: {mean:.1f} % on average ({times})")

    def _fresh(self, config: ModelConfig) -> VLMamba:
        recipe = self.scale.recipe
        return recipe.parts.model(config, recipe.seed).to(self.device)

    def _train(self, model: VLMamba, name: str) -> float:
        """Runs a stage over its own data; returns the seconds that it took."""
        entry = self.scale.stage(name)
        stage = entry.config
        batches = entry.data.batches(
            self.processor, stage.batch_size, stage.max_length, stage.seed
        )  # fmt: skip
        trainee, objective = model, language_loss
        if entry.trainee is not None:
            trainee, objective = entry.trainee(model, batches, stage)
        result = run_stage(
            trainee, batches, stage, objective=objective, ranks=Ranks(self.device)
        )  # fmt: skip
        if not result.finished:
            raise StoppedError
        self._say(f"{name}: {1000 * result.step_seconds:.1f} ms a step")
        return result.seconds

    def _learn(self, model: VLMamba, pool: Pool, name: str, seed: int) -> tuple[float, float]:
        """Runs a stage over the pool; returns the seconds that it took and its last loss."""
        entry = self.scale.stage(name)
        stage = replace(entry.config, seed=seed)
        batches = PoolBatches(pool, stage.batch_size, seed)
        assert entry.trainee is not None
        trainee, objective = entry.trainee(model, batches, stage)
        result = run_recorded(trainee, batches, stage, objective)
        return result.seconds, result.loss

    def _pool(self, layout: VisionLayout) -> Pool:
        """What the tower of a layout makes of the pictures that all rows learn from: as many as they see."""
        if layout not in self._pools:
            entries = [self.scale.stage(name) for name in ("align", "finetune")]
            stage = entries[-1].config
            seen = max(e.config.total_steps(1) * e.config.batch_size for e in entries)
            batches = entries[-1].data.batches(
                self.processor, stage.batch_size, stage.max_length, stage.seed
            )
            number = -(-seen // stage.batch_size)
            model = self._eyes(layout)
            self._pools[layout] = Pool.fill(model.model.vision_tower, batches, number, self.dtype)
            self._say(f"{len(self._pools[layout]):,} pictures as {layout}'s layout sees them")
        return self._pools[layout]

    def _views(self, layout: VisionLayout) -> Tensor:
        """What the tower of a layout makes of the exam's pictures."""
        if layout not in self._seen:
            tower = self._eyes(layout).model.vision_tower
            parts = self.exam.pixel_values.split(512)
            self._seen[layout] = torch.cat(
                [look(tower, part.float(), self.dtype) for part in parts]
            )
        return self._seen[layout]

    def _eyes(self, layout: VisionLayout) -> VLMamba:
        """A model with the trained tower of a layout."""
        variant = next(v for v in VARIANTS.values() if v.layout == layout)
        model = VLMamba(self.scale.model(variant)).to(self.device).eval()
        model.model.vision_tower.load_state_dict(load_file(self.tower(layout)))
        return model

    @property
    def _device_name(self) -> str:
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else self.device.type

    def _say(self, line: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, partial)
    partial.replace(path)
