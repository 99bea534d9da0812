"""Trains the paper's model at full size with random weights, for a few steps of each variant, and counts.

    PYTHONPATH=. python bench/train_scale.py --json results/train_scale.json
    PYTHONPATH=. torchrun --nproc-per-node 2 bench/train_scale.py "finetune packed one" "finetune packed fsdp" --profile

Samples are made up with LLaVA's lengths (`bench/llava_lengths.py`), pictures and ids are random. A variant is a stage,
a layout (packed, or padded with length grouping), a form ("one" process alone, or ddp, fsdp, fsdp-grad-op over all),
and settings of the stage that differ from the recipe's, such as "recompute=scan batch_size=2"; `accumulation` is of
each process. Printed for each: tokens a second, share of the GPU's peak, memory a GPU beside the estimate of
`--dry-run`, and the hours that the whole set would take; with `--profile` also the share of a step in which nothing but
communication ran. Forms over several processes compute the steps of "one" with the same weights and batches, so their
losses must agree. Padded batches hold as many samples as packed rows would if each were the longest, so that both may
meet the same memory; they are taken from all over the epoch.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import torch
from llava_lengths import STAGES, LlavaLengths
from record import circumstances
from torch.profiler import ProfilerActivity, profile

from vlmamba.data.batches import Batch
from vlmamba.data.grouping import Grouped
from vlmamba.data.packing import Packed
from vlmamba.model import IGNORE_INDEX, VLMamba
from vlmamba.recipes import vl_mamba_2_8b
from vlmamba.train.costs import costs, peak_flops
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.memory import memory
from vlmamba.train.ranks import Ranks
from vlmamba.train.stages import StageConfig

SAMPLES = 8192  # drawn, of which a few batches are used
WARM_UP = 2  # steps in which kernels are compiled and the allocator fills
TOGETHER = 8  # padded batches of a step, as the recipe's
KERNELS = 24  # that are named
VARIANTS = (
    "finetune packed one",
    "align packed one",
    "finetune padded one",
    "align padded one",
    "align packed one recompute=mixer",
    "finetune packed one recompute=scan optimizer=adamw8bit",
    "finetune packed one recompute=scan batch_size=3",
    "finetune packed one recompute=nothing batch_size=1",
)


class Prepared:
    """Batches made beforehand and kept in page-locked memory; notes when each step asks for its first one.

    A profiler, where given, sees the step after the `timed` ones.
    """

    def __init__(
        self, batches: list[Batch], each: int, timed: int, profiler: profile | None
    ) -> None:
        self.batches, self.each, self.timed, self.profiler = batches, each, timed, profiler
        self.asked = 0
        self.began: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, index: int) -> Batch:
        if self.asked % self.each == 0:
            torch.cuda.synchronize()
            self.began.append(time.perf_counter())
            if self.profiler is not None and len(self.began) == WARM_UP + self.timed + 1:
                self.profiler.start()
            if self.profiler is not None and len(self.began) == WARM_UP + self.timed + 2:
                self.profiler.stop()
        self.asked += 1
        return self.batches[index % len(self.batches)]


def make_batches(
    samples: LlavaLengths, layout: str, stage: StageConfig, count: int, world: int
) -> list[Batch]:
    """The batches of one step, `count` packed ones or padded ones of about as many samples."""
    rows, length = stage.batch_size, stage.max_length
    if layout == "packed":
        packed = Packed(samples, rows, length, seed=0, together=count)
        return [packed.batch(k).pin() for k in range(count)]
    size = rows * length // max(samples.lengths)
    grouped = Grouped(samples, samples.has_picture, size, seed=0, together=TOGETHER)
    number = world * max(1, round(count * rows * length / mean(samples) / size / world))
    return [grouped.batch(k * len(grouped) // number).pin() for k in range(number)]


def mean(samples: LlavaLengths) -> float:
    """Tokens of a sample."""
    return sum(samples.lengths) / len(samples.lengths)


def fresh_model(device: torch.device) -> VLMamba:
    torch.manual_seed(0)
    with device:
        return VLMamba(vl_mamba_2_8b().model)


def measure(
    stage: StageConfig, layout: str, form: str, ranks: Ranks, steps: int, profiled: bool
) -> dict:
    """One variant: stage as it is to be run, its `accumulation` the number of packed batches of a step."""
    mine = ranks if form != "one" else Ranks(ranks.device)
    samples = LlavaLengths(stage.name, SAMPLES, 2048)
    batches = make_batches(samples, layout, stage, stage.accumulation, ranks.world)
    stage = replace(
        stage, parallel="ddp" if form == "one" else form, accumulation=len(batches),
        steps=WARM_UP + steps + 2,  # the last one's rate and so its loss depend on how many there are
    )  # fmt: skip
    profiler = profile(activities=[ProfilerActivity.CUDA]) if profiled else None
    supply = Prepared(batches, len(batches) // mine.world, steps, profiler)
    model = fresh_model(ranks.device)
    # Shards are made of a copy; the original, which belongs on the host, stays and is not counted.
    beside = 4 * sum(p.numel() for p in model.parameters()) if form.startswith("fsdp") else 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = run_stage(model, supply, stage, objective=language_loss, ranks=mine)
    torch.cuda.synchronize()
    taken = [b - a for a, b in pairwise(supply.began[WARM_UP : WARM_UP + steps + 1])]
    seconds = statistics.median(taken)
    cost = costs(model.config, stage)
    tokens = sum(batch.token_count for batch in batches)
    flops = sum(cost.of(batch) for batch in batches)
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    expected = memory(
        model.config, stage, largest.input_ids.numel(), largest.picture_count, supervised(largest), mine.world
    )  # fmt: skip
    peak = peak_flops(ranks.device)
    tokens_of_set = sum(kind.count for kind in STAGES[stage.name].values()) * mean(samples)
    return {
        "stage": stage.name, "layout": layout, "form": form, "processes": mine.world,
        "rows": list(batches[0].input_ids.shape), "batches": len(batches), "recompute": stage.recompute,
        "optimizer": stage.optimizer, "samples": sum(len(batch.sample_ids) for batch in batches),
        "seconds a step": seconds, "steps": taken, "seconds of every GPU": ranks.gather(seconds),
        "tokens a second": tokens / seconds,
        "supervised tokens a second": sum(map(supervised, batches)) / seconds,
        "positions used": tokens / sum(batch.input_ids.numel() for batch in batches),
        "mfu": flops / seconds / mine.world / peak if peak else None,
        "gigabytes": (max(ranks.gather(torch.cuda.max_memory_allocated())) - beside) / 1e9,
        "gigabytes reserved": (max(ranks.gather(torch.cuda.max_memory_reserved())) - beside) / 1e9,
        "gigabytes expected": expected.total / 1e9,
        "expected of": {key: round(value / 1e9, 2) for key, value in asdict(expected).items()},
        "hours of the whole set": tokens_of_set / (tokens / seconds) / 3600,
        **({} if profiler is None else on_the_gpu(profiler, seconds)),
        "losses": [result.losses[step] for step in sorted(result.losses)],
    }  # fmt: skip


def supervised(batch: Batch) -> int:
    return int((batch.labels != IGNORE_INDEX).sum())


def on_the_gpu(profiled: profile, seconds: float) -> dict:
    """Of a step's `seconds`: the share in which NCCL was at work, in which nothing else was, and in which nothing was
    at all; and the kernels that took longest."""
    events = [
        event
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    talking, working, longest = [], [], Counter()
    for event in events:
        span = (event.time_range.start / 1e6, event.time_range.end / 1e6)
        (talking if "nccl" in event.name.lower() else working).append(span)
        longest[event.name[:90]] += span[1] - span[0]
    busy = length_of(covered([*talking, *working]))
    alone = busy - length_of(covered(working))
    return {
        "communicating": length_of(covered(talking)) / seconds, "communicating alone": alone / seconds,
        "idle": 1 - busy / seconds,
        "kernels": {name: round(taken, 4) for name, taken in longest.most_common(KERNELS)},
    }  # fmt: skip


def covered(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The union of spans, as spans that do not touch."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def length_of(spans: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)


def show(row: dict) -> None:
    mfu = f"{row['mfu']:6.1%}" if row["mfu"] else "   ?  "
    talk = f" {row['communicating alone']:5.1%} waits" if "communicating" in row else ""
    print(
        f"{row['stage']:9}{row['layout']:7}{row['form']:13}x{row['processes']} {row['recompute']:8}"
        f"{row['rows']!s:12}{row['tokens a second']:8,.0f} tok/s {mfu} MFU {row['positions used']:6.1%} used "
        f"{row['gigabytes']:5.1f} GB (expected {row['gigabytes expected']:5.1f}) "
        f"{row['hours of the whole set']:5.1f} h{talk}  loss {row['losses'][0]:.4f} -> {row['losses'][-1]:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=VARIANTS, help="see above")
    parser.add_argument(
        "--accumulation", type=int, default=4, help="packed batches of a process and step"
    )
    parser.add_argument("--steps", type=int, default=2, help=f"after {WARM_UP} that warm up")
    parser.add_argument("--profile", action="store_true", help="forms over several processes")
    parser.add_argument("--json", type=Path, help="where the record goes; added to if it is there")
    arguments = parser.parse_args()
    rows, before, file = [], [], arguments.json
    if file and file.exists():
        before = json.loads(file.read_text())["runs"]
    with Ranks.start() as ranks:
        for variant in arguments.variants:
            stage, layout, form = read(variant, arguments.accumulation, ranks.world)
            profiled = arguments.profile and form != "one"
            try:
                row = measure(stage, layout, form, ranks, arguments.steps, profiled)
            except torch.OutOfMemoryError as error:
                row = {"variant": variant, "out of memory": str(error).splitlines()[0]}
            gc.collect()
            torch.cuda.empty_cache()
            rows.append(row)
            if ranks.first:
                print(row, flush=True) if "out of memory" in row else show(row)
                if file:
                    write(file, before, rows)


def read(variant: str, accumulation: int, world: int) -> tuple[StageConfig, str, str]:
    """The stage, layout and form that a variant names."""
    name, layout, form, *changes = variant.split()
    base = next(s.config for s in vl_mamba_2_8b().stages if s.config.name == name)
    settings = {"accumulation": accumulation}
    for change in changes:
        key, value = change.split("=")
        settings[key] = int(value) if value.isdigit() else value
    settings["accumulation"] *= world
    stage = replace(base, epochs=None, steps=1, workers=0, log_interval=1, **settings)
    return stage, layout, form


def write(file: Path, runs: list[dict], rows: list[dict]) -> None:
    """`rows` of this run after the `runs` that the file held before."""
    assumed = {
        stage: {name: asdict(kind) for name, kind in kinds.items()}
        for stage, kinds in STAGES.items()
    }
    run = {**circumstances(" ".join(["bench/train_scale.py", *sys.argv[1:]]), 0), "variants": rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"lengths assumed": assumed, "runs": [*runs, run]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
