"""Trains the paper's model at full size with random weights, for a few steps of each variant, and counts.

    PYTHONPATH=. python bench/train_scale.py --json results/train_scale.json
    PYTHONPATH=. torchrun --nproc-per-node 2 bench/train_scale.py --forms one,ddp,fsdp,fsdp-grad-op --profile

Samples are made up with LLaVA's lengths (`bench/llava_lengths.py`), pictures and ids are random. A variant is a stage,
a layout (packed, or padded with length grouping) and a form: "one" process alone, or DDP, FSDP2, FSDP2 with gathered
weights over all. Printed for each: tokens a second, share of the GPU's peak, memory a GPU beside the estimate of
`--dry-run`, the share of time in which nothing but communication ran (`--profile`), and the hours that the whole set
would take. Forms over several processes compute the steps of "one" with the same weights and batches, so their losses
must agree. Padded batches hold as many samples as packed rows would if each were the longest, so that both may meet the
same memory; a step holds about as many samples in both layouts.
"""

import argparse
import json
import statistics
import time
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
from vlmamba.model import VLMamba
from vlmamba.recipes import vl_mamba_2_8b
from vlmamba.train.costs import costs, peak_flops
from vlmamba.train.loop import language_loss, run_stage
from vlmamba.train.memory import memory
from vlmamba.train.ranks import Ranks

SAMPLES = 8192  # drawn, of which a few batches are used
WARM_UP = 2  # steps in which kernels are compiled and the allocator fills


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
    stage: str, layout: str, length: int, arguments: argparse.Namespace, world: int
) -> list[Batch]:
    """The batches of one step."""
    samples = LlavaLengths(stage, SAMPLES, 2048)
    mean = sum(samples.lengths) / len(samples.lengths)
    positions, count = arguments.rows * length, arguments.accumulation * world
    if layout == "packed":
        packed = Packed(samples, arguments.rows, length, seed=0)
        return [packed.batch(k).pin() for k in range(count)]
    size = positions // max(samples.lengths)
    grouped = Grouped(samples, samples.has_picture, size, seed=0)
    count = world * round(count * positions / mean / size / world)
    return [grouped.batch(k).pin() for k in range(count)]


def fresh_model(device: torch.device) -> VLMamba:
    torch.manual_seed(0)
    with device:
        return VLMamba(vl_mamba_2_8b().model)


def measure(
    stage_name: str, layout: str, form: str, ranks: Ranks, arguments: argparse.Namespace
) -> dict:
    recipe = vl_mamba_2_8b()
    base = next(s.config for s in recipe.stages if s.config.name == stage_name)
    mine = ranks if form != "one" else Ranks(ranks.device)
    length = arguments.length or base.max_length
    batches = make_batches(stage_name, layout, length, arguments, ranks.world)
    profiled = arguments.profile and form != "one"
    stage = replace(
        base, parallel="ddp" if form == "one" else form, recompute=arguments.recompute, epochs=None,
        steps=WARM_UP + arguments.steps + (2 if profiled else 1), accumulation=len(batches),
        batch_size=arguments.rows, workers=0, log_interval=1, shard_tower=arguments.shard_tower,
    )  # fmt: skip
    profiler = profile(activities=[ProfilerActivity.CUDA]) if profiled else None
    supply = Prepared(batches, len(batches) // mine.world, arguments.steps, profiler)
    model = fresh_model(ranks.device)
    # Shards are made of a copy; the original, which belongs on the host, stays and is not counted.
    beside = 4 * sum(p.numel() for p in model.parameters()) if form.startswith("fsdp") else 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = run_stage(model, supply, stage, objective=language_loss, ranks=mine)
    torch.cuda.synchronize()
    seconds = statistics.median(
        after - before
        for before, after in pairwise(supply.began[WARM_UP : WARM_UP + arguments.steps + 1])
    )
    cost = costs(recipe.model, stage)
    tokens = sum(batch.token_count for batch in batches)
    samples = sum(len(batch.sample_ids) for batch in batches)
    flops = sum(cost.of(batch) for batch in batches)
    largest = max(batches, key=lambda batch: batch.input_ids.numel())
    expected = memory(
        recipe.model, stage, largest.input_ids.numel(), largest.picture_count,
        int((largest.labels != -100).sum()), mine.world,
    )  # fmt: skip
    peak = peak_flops(ranks.device)
    whole_set = sum(kind.count for kind in STAGES[stage_name].values())
    return {
        "stage": stage_name, "layout": layout, "form": form, "processes": mine.world,
        "rows": list(batches[0].input_ids.shape), "recompute": stage.recompute, "seconds a step": seconds,
        "tokens a second": tokens / seconds, "samples a second": samples / seconds,
        "positions used": tokens / sum(batch.input_ids.numel() for batch in batches),
        "mfu": flops / seconds / mine.world / peak if peak else None,
        "gigabytes": (max(ranks.gather(torch.cuda.max_memory_allocated())) - beside) / 1e9,
        "gigabytes reserved": (max(ranks.gather(torch.cuda.max_memory_reserved())) - beside) / 1e9,
        "gigabytes expected": expected.total / 1e9,
        "expected of": {key: round(value / 1e9, 2) for key, value in asdict(expected).items()},
        "hours of the whole set": whole_set / (samples / seconds) / 3600,
        **(communication(profiler) if profiler is not None else {}),
        "losses": [result.losses[step] for step in sorted(result.losses)],
    }  # fmt: skip


def communication(profiled: profile) -> dict:
    """Shares of a step's time on the GPU: NCCL at work, and NCCL at work while nothing else was."""
    spans = [
        (event.time_range.start, event.time_range.end, "nccl" in event.name.lower())
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    whole = max(end for _, end, _ in spans) - min(start for start, _, _ in spans)
    talking = covered([(start, end) for start, end, nccl in spans if nccl])
    working = covered([(start, end) for start, end, nccl in spans if not nccl])
    alone = length_of(covered([*talking, *working])) - length_of(working)
    return {"communicating": length_of(talking) / whole, "communicating alone": alone / whole}


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
        f"{row['tokens a second']:10,.0f} tok/s {mfu} MFU {row['positions used']:6.1%} used "
        f"{row['gigabytes']:6.1f} GB (expected {row['gigabytes expected']:5.1f}) "
        f"{row['hours of the whole set']:6.1f} h{talk}  loss {row['losses'][0]:.4f} -> {row['losses'][-1]:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", default="align,finetune")
    parser.add_argument("--layouts", default="packed,padded")
    parser.add_argument("--forms", default="one", help="of: one, ddp, fsdp, fsdp-grad-op")
    parser.add_argument("--recompute", default="mixer", help="nothing, scan or mixer")
    parser.add_argument("--rows", type=int, default=8, help="rows of a packed batch")
    parser.add_argument("--length", type=int, help="tokens of a row, if not the recipe's")
    parser.add_argument("--accumulation", type=int, default=2, help="batches of a process and step")
    parser.add_argument("--steps", type=int, default=3, help=f"after {WARM_UP} that warm up")
    parser.add_argument("--shard-tower", action="store_true")
    parser.add_argument("--profile", action="store_true", help="the share of communication too")
    parser.add_argument("--json", type=Path, help="where the record goes; added to if it is there")
    arguments = parser.parse_args()
    rows = []
    with Ranks.start() as ranks:
        for stage in arguments.stages.split(","):
            for layout in arguments.layouts.split(","):
                for form in arguments.forms.split(","):
                    row = measure(stage, layout, form, ranks, arguments)
                    rows.append(row)
                    if ranks.first:
                        show(row)
        if ranks.first and arguments.json:
            write(arguments.json, rows)


def write(file: Path, rows: list[dict]) -> None:
    before = json.loads(file.read_text())["variants"] if file.exists() else []
    assumed = {
        stage: {name: asdict(kind) for name, kind in kinds.items()}
        for stage, kinds in STAGES.items()
    }
    record = {
        **circumstances("python bench/train_scale.py", 0),
        "lengths assumed": assumed, "variants": [*before, *rows],
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
