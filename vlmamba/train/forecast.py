"""What a stage will take, told before it begins: tokens, steps, memory of a GPU, and time."""

from collections.abc import Iterator
from dataclasses import asdict, replace

import torch

from vlmamba.data.batches import Batches
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.recipes import Recipe
from vlmamba.train import adapters
from vlmamba.train.costs import PEAK_FLOPS, costs, peak_flops
from vlmamba.train.loop import run_stage
from vlmamba.train.memory import Memory, memory
from vlmamba.train.progress import duration
from vlmamba.train.ranks import Ranks
from vlmamba.train.stages import StageConfig

LOOKED_AT = 4  # batches from which an epoch's tokens and operations are told
MEASURED = 5  # steps, of which the first two warm up
SMALL = 20_000_000  # parameters
EXAMPLES = ("H100", "A100")  # GPUs to estimate for where there is none
USUAL_MFU = (
    0.3  # of the peak: what both stages of the 2.8B reach on an H100 (results/train_scale.json)
)


def forecast(recipe: Recipe, stage: StageConfig, batches: Batches, ranks: Ranks) -> Iterator[str]:
    """Lines about a stage that trains the model itself on those batches."""
    looked_at = [batches.batch(k) for k in range(min(LOOKED_AT, len(batches)))]
    steps, each = stage.total_steps(len(batches)), stage.batches_each(ranks.world)
    tokens = sum(batch.token_count for batch in looked_at) / len(looked_at)
    cost = costs(recipe.model, stage)
    flops = sum(cost.of(batch) for batch in looked_at) / len(looked_at)
    yield (
        f"  {len(batches):,} batches and about {tokens * len(batches):,.0f} tokens an epoch; "
        f"{steps:,} steps of about {tokens * stage.accumulation:,.0f} tokens"
    )
    largest = max(looked_at, key=lambda batch: batch.input_ids.numel())
    supervised = int((largest.labels != IGNORE_INDEX).sum())
    needed = memory(
        recipe.model,
        stage,
        largest.input_ids.numel(),
        largest.picture_count,
        supervised,
        ranks.world,
    )
    yield f"  memory of each GPU, by formula: {_in_words(needed)}"
    peak = peak_flops(ranks.device)
    if ranks.world == 1 and (ranks.device.type == "cuda" or _is_small(recipe)):
        yield from _measured(recipe, stage, batches, ranks, steps * each)
        return
    rates = {name: PEAK_FLOPS[name] for name in EXAMPLES}
    if peak is not None:
        rates = {torch.cuda.get_device_name(ranks.device): peak}
    for name, rate in rates.items():
        seconds = steps * each * flops / (USUAL_MFU * rate)
        yield (
            f"  time on {ranks.world} x {name}: {duration(seconds)} "
            f"(an estimate: {USUAL_MFU:.0%} of {rate / 1e12:,.0f} TFLOP/s)"
        )


def without_data(recipe: Recipe, stage: StageConfig, ranks: Ranks) -> str:
    """What can be told of a stage whose data is not there: its memory, for rows full of pictures."""
    patches = recipe.model.vision.num_patches
    positions = stage.batch_size * stage.max_length
    pictures = stage.batch_size * (stage.max_length // patches)
    needed = memory(
        recipe.model, stage, positions, pictures, positions - pictures * patches, ranks.world
    )
    return f"  memory of each GPU, by formula, at most: {_in_words(needed)}"


def _in_words(needed: Memory) -> str:
    parts = ", ".join(f"{name} {size(value)}" for name, value in asdict(needed).items())
    return f"{size(needed.total)} ({parts})"


def size(value: float) -> str:
    return f"{value / 1e9:.1f} GB" if value >= 1e8 else f"{value / 1e6:.1f} MB"


def _is_small(recipe: Recipe) -> bool:
    """Whether a few steps on a CPU take seconds."""
    with torch.device("meta"):
        return sum(p.numel() for p in VLMamba(recipe.model).parameters()) < SMALL


def _measured(
    recipe: Recipe, stage: StageConfig, batches: Batches, ranks: Ranks, count: int
) -> Iterator[str]:
    """Runs a few steps with random weights on the device at hand; `count`: batches that the stage has in all."""
    short = replace(stage, steps=MEASURED, epochs=None, accumulation=2, log_interval=MEASURED)
    with ranks.device:
        model = VLMamba(recipe.model)
        if stage.lora.rank:
            adapters.add(model, stage.lora, stage.seed, stage.precision == "bf16")
    on_gpu = ranks.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    try:
        result = run_stage(model, batches, short, ranks=ranks)
    except torch.OutOfMemoryError:
        yield "  measured here: does not fit; try recompute=mixer, a smaller batch_size, or more GPUs with fsdp"
        return
    seconds = count * result.step_seconds / short.accumulation
    where = torch.cuda.get_device_name(ranks.device) if on_gpu else "this CPU"
    taken = f", {size(torch.cuda.max_memory_allocated(ranks.device))}" if on_gpu else ""
    yield (
        f"  measured here, {MEASURED} steps with random weights: {duration(seconds)} for the stage "
        f"on {where}{taken}"
    )
