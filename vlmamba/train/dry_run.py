"""What a run would do, in words: its settings, what trains, and what the model would first see."""

import json
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby

import torch

from vlmamba.config import ModelConfig
from vlmamba.data.batches import Batch, Batches
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.processing import Processor
from vlmamba.recipes import Recipe, Stage
from vlmamba.train import adapters, overrides
from vlmamba.train.forecast import forecast, without_data
from vlmamba.train.ranks import Ranks
from vlmamba.train.stages import StageConfig, freeze_for

PARTS = ("model.vision_tower", "model.connector", "model.language_model", "lm_head")


def describe(recipe: Recipe, stages: Sequence[Stage], ranks: Ranks) -> str:
    """The report of `--dry-run`, for that many processes. Data that is not there is said so, not an error."""
    lines = [f"recipe {recipe.name}", "", "settings (change with --set key=value)"]
    lines += [f"  {key} = {_shown(value)}" for key, value in overrides.flat(recipe)]
    for stage in stages:
        lines += ["", f"stage {stage.config.name}", *parameters(recipe.model, stage.config)]
    try:
        processor = recipe.parts.processor(recipe.model, recipe.image, recipe.template)
        for stage in stages:
            own = stage_processor(processor, stage)
            config = stage.config
            batches = stage.data.batches(own, config.batch_size, config.max_length, config.seed)
            lines += ["", f"what stage {config.name} takes"]
            if stage.trainee is None:
                lines += forecast(recipe, config, batches, ranks)
            else:
                steps = config.total_steps(len(batches))
                lines += [f"  {len(batches):,} batches an epoch, {steps:,} steps"]
            lines += ["", f"first batch of stage {config.name}", *first_batch(own, batches)]
    except (OSError, ValueError) as error:
        for stage in stages:
            lines += ["", f"what stage {stage.config.name} takes"]
            lines += [without_data(recipe, stage.config, ranks)]
        lines += ["", f"first batch not shown: {error}"]
    return "\n".join(lines)


def parameters(model_config: ModelConfig, stage: StageConfig) -> Iterator[str]:
    """Parameters of every part, and whether the stage trains them."""
    with torch.device("meta"):
        model = VLMamba(model_config)
        if stage.lora.rank:
            adapters.add(model, stage.lora, stage.seed, stage.precision == "bf16")
    trained = freeze_for(model, stage.name)
    totals = {True: 0, False: 0}
    for part in PARTS:
        for learns in (True, False):
            count = sum(
                p.numel()
                for n, p in model.named_parameters()
                if n.startswith(part) and (n in trained) == learns
            )
            if count:
                totals[learns] += count
                name = f"{part} (LoRA)" if learns and part == PARTS[2] and stage.lora.rank else part
                yield f"  {name:28} {count:15,}  {'trained' if learns else 'frozen'}"
    yield f"  {'together':28} {totals[True]:15,}  trained, {totals[False]:,} frozen"


def stage_processor(processor: Processor, stage: Stage) -> Processor:
    """The processor with the stage's own template, where it has one."""
    if stage.template is None:
        return processor
    processor = copy(processor)
    processor.template = stage.template
    return processor


def first_batch(processor: Processor, batches: Batches) -> Iterator[str]:
    """Size of the first batch, and its first row in words, what is learnt between [[ and ]]."""
    batch = batches.batch(0)
    pictures = 0 if batch.pixel_values is None else len(batch.pixel_values)
    learnt = int((batch.labels != IGNORE_INDEX).sum())
    yield (
        f"  {len(batch.sample_ids)} samples, {pictures} pictures, {batch.token_count:,} tokens "
        f"({learnt:,} learnt) in {batch.input_ids.numel():,} positions"
    )
    yield from (f"  | {line}" for line in row_in_words(processor, batch).splitlines())


def row_in_words(processor: Processor, batch: Batch, row: int = 0) -> str:
    """A row of a batch as text: pictures as <image x N>, learnt tokens between [[ and ]], samples a line apart."""
    ids, labels = batch.input_ids[row].tolist(), batch.labels[row].tolist()
    starts = batch.reset[row].cumsum(0).tolist() if batch.reset is not None else [1] * len(ids)

    def kind(k: int) -> tuple[int, str]:
        if ids[k] == processor.image_token_id:
            return starts[k], "picture"
        return starts[k], "read" if labels[k] == IGNORE_INDEX else "learnt"

    text, sample = "", 1
    real = len(ids) - next(
        (k for k, i in enumerate(reversed(ids)) if i != processor.pad_token_id), 0
    )
    for (number, what), group in groupby(range(real), key=kind):
        positions = list(group)
        piece = processor.tokenizer.decode([ids[k] for k in positions], skip_special_tokens=False)
        if number != sample:
            text, sample = text + "\n---\n", number
        if what == "picture":
            text += f"<image x {len(positions)}>"
        else:
            text += f"[[{piece}]]" if what == "learnt" else piece
    return text


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:80]} ... ({len(text):,} characters)"
