"""The ablations from an empty folder to the last run; what `vlmamba ablate` calls."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlmamba.ablation.jobs import Job, holding_lock, work
from vlmamba.ablation.lab import Lab, StoppedError
from vlmamba.ablation.outcomes import PLAN, Outcomes, read_outcomes
from vlmamba.ablation.rows import Ablation, Variant, choose_tables, variants_of
from vlmamba.ablation.scale import Scale, find_scale
from vlmamba.config import VisionLayout
from vlmamba.data.made import pool
from vlmamba.eval.reading import read_json
from vlmamba.eval.score import replace_file
from vlmamba.train import overrides
from vlmamba.train.runner import HARMLESS, resolved
from vlmamba.vlm import choose_device


def run(
    tables: Sequence[str],
    recipe: str,
    output: Path,
    settings: Sequence[str] = (),
    *,
    seeds: int = 3,
    limit: int = 1000,
    device: str | None = None,
    minutes: float | None = None,
) -> tuple[Outcomes, list[Ablation], bool]:
    """Trains and examines the rows of the tables with seeds 0 to `seeds` - 1; what `output` holds is not done again.

    Several processes may work on one `output` at once, each on a GPU of its own. limit: questions of a set; minutes:
    after that no run is begun. Returns all outcomes, the tables, and whether they are complete.
    Raises ValueError for an unknown table, recipe or setting, or an `output` that was begun with others.
    """
    started = time.monotonic()
    chosen, scale = choose_tables(tables), find_scale(recipe)
    scale = replace(scale, recipe=overrides.apply(scale.recipe, settings))
    for name, value in (("seeds", seeds), ("limit", limit)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    pool().submit(int).result()  # forks the processes that make pictures, before CUDA has begun
    place = _place(device)
    begin(output, scale, limit)
    lab = Lab(scale, output, place, limit)
    deadline = float("inf") if minutes is None else started + 60 * minutes
    try:
        complete = work(list(_jobs(lab, variants_of(chosen), seeds)), deadline)
    except StoppedError:
        complete = False
    return read_outcomes(output), chosen, complete


def describe(tables: Sequence[str], recipe: str, settings: Sequence[str], seeds: int) -> str:
    """The runs that `run` would make, in words."""
    chosen, scale = choose_tables(tables), find_scale(recipe)
    scale = replace(scale, recipe=overrides.apply(scale.recipe, settings))
    variants = variants_of(chosen)
    lines = [f"{len(variants)} models, each with {seeds} seeds: {len(variants) * seeds} runs"]
    for stage in scale.recipe.stages:
        c = stage.config
        lines.append(f"{c.name}: {c.total_steps(1):,} steps of {c.batch_size:,} samples")
    for table in chosen:
        lines.append(f"Table {table.number}: {table.title}")
        lines += [f"  {row.label}: {row.variant}" for row in table.rows]
    return "\n".join(lines)


def begin(output: Path, scale: Scale, limit: int) -> None:
    """Opens the folder: what every run must have in common is written down, or found equal."""
    for folder in (output, output / "parts", output / "runs"):
        folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(scale, limit)
    with holding_lock(output / f"{PLAN}.lock"):
        if not (output / PLAN).exists():
            if any((output / "runs").glob("*.json")):
                raise ValueError(f"{output} holds runs without {PLAN}: choose another -o")
            replace_file(output / PLAN, json.dumps(plan, indent=1) + "\n")
            return
    begun = read_json(output / PLAN)
    for key, value in plan.items():
        if begun.get(key) != value:
            raise ValueError(
                f"{output} was begun with {key}={begun.get(key)}, not {value}: use the same settings, or another -o"
            )


def plan_of(scale: Scale, limit: int) -> dict[str, Any]:
    """All that the outcomes depend on, by name."""
    settings = resolved(scale.recipe)
    elsewhere = (*HARMLESS, "packs")  # where the packs lie is no matter
    kept = {k: v for k, v in settings.items() if k.rsplit(".", 1)[-1] not in elsewhere}
    return kept | {"layers": list(scale.layers), "limit": limit}


def _jobs(lab: Lab, variants: Sequence[Variant], seeds: int) -> Iterator[Job]:
    """Parts first, those that most runs wait for at the front; then every row with one seed, with the next, ..."""
    layouts: dict[VisionLayout, None] = dict.fromkeys(v.layout for v in variants)
    for layout in layouts:
        yield Job("tower", lab.tower(layout), partial(lab.make_tower, layout))
    for size in dict.fromkeys(v.size for v in variants):
        yield Job("language", lab.language(size), partial(lab.make_language, size))
    for seed in range(seeds):
        for variant in variants:
            yield Job(
                "run",
                lab.outcome(variant.name, seed),
                partial(lab.make_run, variant, seed),
                (lab.tower(variant.layout), lab.language(variant.size)),
            )


def _place(device: str | None) -> torch.device:
    """The device, made the current one, where the data goes."""
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    elif torch.cuda.is_available():
        raise ValueError(
            "the data goes to the GPU where there is one: CUDA_VISIBLE_DEVICES= hides it"
        )
    return chosen
