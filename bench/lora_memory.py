"""Memory and speed of finetuning the 2.8B model on one GPU, whole and with adapters, with random weights.

    python bench/lora_memory.py --json results/lora_memory.json

Samples are made up with LLaVA's lengths (`bench/llava_lengths.py`). Each variant makes a few optimiser steps through
the training loop, and adapters are merged at the end as they are in a run. `--limit` gibibytes is all that a variant
with adapters may allocate, so that what runs here also runs on a card of that size.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from llava_lengths import LlavaLengths
from record import circumstances

from vlmamba.data.batches import Batch
from vlmamba.data.packing import Packed
from vlmamba.model import VLMamba
from vlmamba.recipes import vl_mamba_2_8b
from vlmamba.train import adapters
from vlmamba.train.adapters import Lora
from vlmamba.train.loop import run_stage
from vlmamba.train.memory import memory

STEPS, ACCUMULATION = 4, 2
VARIANTS = {
    "whole": (Lora(), "mixer"),
    "rank 128": (Lora(128), "mixer"),
    "rank 128, scan": (Lora(128), "scan"),
    "rank 16": (Lora(16, alpha=32.0), "mixer"),
    "rank 16, nf4": (Lora(16, alpha=32.0, frozen="nf4"), "mixer"),
}


class Timed:
    """Batches that are ready, and when each was asked for."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches, self.asked = batches, []

    def __len__(self) -> int:
        return len(self.batches)

    def batch(self, index: int) -> Batch:
        if index % ACCUMULATION == 0:
            torch.cuda.synchronize()
            self.asked.append(time.perf_counter())
        return self.batches[index % len(self.batches)]


def measure(name: str, rows: int, limit: float | None) -> dict:
    lora, recompute = VARIANTS[name]
    recipe = vl_mamba_2_8b()
    base = recipe.stages[-1].config
    stage = replace(
        base, lora=lora, recompute=recompute, steps=STEPS, epochs=None, batch_size=rows,
        accumulation=ACCUMULATION, workers=0, log_interval=1,
    )  # fmt: skip
    samples = LlavaLengths("finetune", 400, stage.max_length)
    packed = Packed(samples, rows, stage.max_length, seed=0)
    batches = [packed.batch(k).pin() for k in range(ACCUMULATION)]
    total = torch.cuda.get_device_properties(0).total_memory
    share = 1.0 if limit is None or not lora.rank else limit * 2**30 / total
    torch.cuda.set_per_process_memory_fraction(share)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = VLMamba(recipe.model)
    if lora.rank:
        adapters.add(model, lora, stage.seed, bf16=True)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    supply = Timed(batches)
    result = run_stage(model, supply, stage)
    seconds = statistics.median(
        after - before for before, after in zip(supply.asked[1:], supply.asked[2:], strict=False)
    )
    row = {
        "variant": name, "rank": lora.rank, "recompute": recompute, "rows": list(batches[0].input_ids.shape),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9,
        "gigabytes reserved": torch.cuda.max_memory_reserved() / 1e9,
        "gibibytes allowed": limit if lora.rank else None,
        "seconds a step": seconds,
        "tokens a second": sum(batch.token_count for batch in batches) / seconds,
    }  # fmt: skip
    largest = max(batches, key=lambda batch: int((batch.labels != -100).sum()))
    expected = memory(
        recipe.model, stage, largest.input_ids.numel(), largest.picture_count,
        int((largest.labels != -100).sum()),
    )  # fmt: skip
    row["expected of"] = {k: round(v / 1e9, 2) for k, v in asdict(expected).items()}
    row["gigabytes expected"] = expected.total / 1e9
    torch.cuda.reset_peak_memory_stats()
    if lora.rank:
        adapters.merge(model)
        row["gigabytes while merging"] = torch.cuda.max_memory_allocated() / 1e9
    row["losses"] = [result.losses[step] for step in sorted(result.losses)]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2], help="rows of a batch")
    parser.add_argument("--limit", type=float, default=22.0, help="gibibytes for adapters")
    parser.add_argument("--json", help="where to write the record")
    options = parser.parse_args()
    record = circumstances("python bench/lora_memory.py", seed=0)
    record["results"] = []
    for name in options.variants:
        for rows in options.rows:
            try:
                row = measure(name, rows, options.limit)
            except torch.OutOfMemoryError as error:
                row = {"variant": name, "rows": rows, "out of memory": str(error).splitlines()[0]}
            record["results"].append(row)
            print(
                {k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )
            if options.json:
                with open(options.json, "w") as file:
                    file.write(json.dumps(record, indent=1) + "\n")
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
