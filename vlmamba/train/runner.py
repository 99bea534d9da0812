"""A recipe from its first stage to a model directory; what `vlmamba train` calls."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vlmamba import recipes
from vlmamba.checkpoints import save_model
from vlmamba.connector import build_connector
from vlmamba.data.llava import LlavaSamples
from vlmamba.model import VLMamba
from vlmamba.processing import Processor
from vlmamba.recipes import Recipe, Stage
from vlmamba.train import adapters, overrides
from vlmamba.train.dry_run import describe, stage_processor
from vlmamba.train.held_out import HeldOut
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.ranks import Ranks

# Settings that may change on resume: they touch nothing that is computed, but for rounding.
HARMLESS = (
    "workers", "log_interval", "checkpoint_interval", "keep_checkpoints", "max_bad",
    "parallel", "shard_tower", "recompute",
    "sample_file", "sample_images", "sample_count", "sample_interval", "trackers",
)  # fmt: skip


def run(
    recipe: str,
    stage: str | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    dry_run: bool = False,
    output: Path | None = None,
) -> Path | None:
    """Trains a recipe, stage by stage, and writes a model directory; returns it, or None when it was stopped.

    stage: the last stage to run; those before it run first unless `output` already holds them.
    settings: `key=value`, see `overrides`. resume: goes on in `output`, with the settings it was begun with.
    dry_run: prints what would happen, on standard output, and changes nothing.
    output: `runs/NAME` if not given. It becomes the model directory; logs and checkpoints are in its `training/`.

    Under torchrun every process calls this alike; the first one prints and writes, `output` must be a directory that
    all of them see, and the path is returned in each. Raises ValueError for an unknown recipe, stage or setting, or an
    `output` that holds another run.
    """
    output = Path("runs") / recipe if output is None else output
    with Ranks.start() as ranks:
        chosen = overrides.apply(recipes.find(recipe), settings)
        stages = _until(chosen, stage)
        if not dry_run:
            return _train(ranks, chosen, stages, resume, output)
        if ranks.first:
            print(describe(chosen, stages, ranks))
        return None


def _train(
    ranks: Ranks, recipe: Recipe, stages: Sequence[Stage], resume: bool, output: Path
) -> Path | None:
    home = output / "training"
    with ranks.together():
        if ranks.first:
            _begin(home, recipe, resume)
    with ranks.together():
        processor = Processor.load(home / "processor")
        model = recipe.parts.model(recipe.model, recipe.seed)
    for entry in stages:
        if not _stage(ranks, model, processor, recipe, entry, home / entry.config.name, resume):
            if ranks.first:
                print(
                    f"stopped; a checkpoint is in {home / entry.config.name}: go on with --resume -o {output}",
                    file=sys.stderr,
                )
            return None
        if entry.config.name == "pretrain":
            _renew_connector(model, recipe)
    with ranks.together():
        if ranks.first:
            save_model(output, model.eval(), processor)
            print(f"the model is in {output}", file=sys.stderr)
    return output


def _until(recipe: Recipe, stage: str | None) -> tuple[Stage, ...]:
    names = [entry.config.name for entry in recipe.stages]
    if stage is None:
        return recipe.stages
    if stage not in names:
        raise ValueError(
            f"recipe {recipe.name} has no stage {stage!r}: use one of {', '.join(names)}"
        )
    return recipe.stages[: names.index(stage) + 1]


def _begin(home: Path, recipe: Recipe, resume: bool) -> None:
    """Opens the run's folder: its settings and the processor are written down, or found equal."""
    settings = resolved(recipe)
    home.mkdir(parents=True, exist_ok=True)
    file = home / "run.json"
    if resume and file.exists():
        begun = json.loads(file.read_text())
        changed = [
            key
            for key in settings
            if begun.get(key) != settings[key] and key.rsplit(".", 1)[-1] not in HARMLESS
        ]
        if changed:
            key = changed[0]
            raise ValueError(
                f"{home} was begun with {key}={begun.get(key)}, not {settings[key]}: resume with the same settings"
            )
        return
    if file.exists():
        raise ValueError(f"{home} already holds a run: add --resume to go on, or choose another -o")
    processor = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
    processor.save(home / "processor")
    partial = home / "run.json.partial"
    partial.write_text(json.dumps(settings, indent=1))
    partial.replace(file)


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every setting of the run by its dotted name, as JSON has it."""
    flat = {"recipe": recipe.name, **dict(overrides.flat(recipe))}
    return json.loads(json.dumps(flat, default=str))


def _stage(
    ranks: Ranks,
    model: VLMamba,
    processor: Processor,
    recipe: Recipe,
    entry: Stage,
    directory: Path,
    resume: bool,
) -> bool:
    """Runs a stage, or takes its result where it is finished already; returns whether it is."""
    stage = entry.config
    processor = stage_processor(processor, entry)
    sharded = ranks.world > 1 and stage.parallel != "ddp"
    with ranks.together():
        model.to("cpu" if sharded else ranks.device)
        batches = entry.data.batches(processor, stage.batch_size, stage.max_length, stage.seed)
        trainee, objective = model, language_loss
        if entry.trainee is not None:
            trainee, objective = entry.trainee(model, batches, stage)
        if stage.lora.rank:
            adapters.add(model, stage.lora, stage.seed, stage.precision == "bf16")
        held_out = None
        if stage.sample_file is not None and trainee is model:
            samples = LlavaSamples(
                stage.sample_file, stage.sample_images, processor, stage.max_length
            )
            held_out = HeldOut(samples, stage.sample_count)
    result = run_stage(
        trainee, batches, stage, directory,
        objective=objective, config={"recipe": recipe.name}, resume=resume, ranks=ranks,
        held_out=held_out,
    )  # fmt: skip
    if stage.lora.rank and result.finished:
        adapters.merge(model)
    return result.finished


def _renew_connector(model: VLMamba, recipe: Recipe) -> None:
    """A fresh connector between the parts that "pretrain" made, as the paper's two stages begin with."""
    torch.manual_seed(recipe.seed + 1)
    fresh = build_connector(
        recipe.model.vision.hidden_size, recipe.model.text.d_model, recipe.model.connector
    )
    model.model.connector = fresh.to(model.device)
