"""Where the time of a training step and of a prompt goes on this machine's GPU, kernel by kernel.

    PYTHONPATH=. python bench/gpu_profile.py [--json results/gpu_profile.json]

The 2.8B model of `bench/gpu_model.py`, bfloat16: forward and backward of 4 x 2048 tokens, and prompts of 1 x 800 and
8 x 800. `ms` is the sum over kernels, `idle_ms` what lies between them, from the first to the last. Both are those of
one step; of many in a row a step takes longer, as the GPU is slower while it is hot.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from record import circumstances
from torch.profiler import ProfilerActivity, profile

from vlmamba.measure.language_model import SIZES, learning, random_model, random_tokens, reading

GPU = torch.device("cuda")
MAMBA = SIZES["2.8b"]
KEPT = 40  # of a profile's kernels, those that take longest


def kernels(run: Callable[[], object]) -> tuple[list[dict], float]:
    """Every kernel's time and calls, and how long none was at work."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    found = [
        {"kernel": e.key, "ms": e.self_device_time_total / 1e3, "calls": e.count}
        for e in seen.key_averages()
        if e.self_device_time_total > 0 and e.device_type.name == "CUDA"
    ]
    spans = sorted(
        (e.time_range.start, e.time_range.end)
        for e in seen.events()
        if e.device_type.name == "CUDA"
    )
    idle, end = 0.0, spans[0][1]
    for start, stop in spans[1:]:
        idle, end = idle + max(0.0, start - end), max(end, stop)
    return sorted(found, key=lambda row: -row["ms"]), idle / 1e3


def rows(what: str, run: Callable[[], object]) -> dict:
    found, idle = kernels(run)
    total, calls = sum(row["ms"] for row in found), sum(row["calls"] for row in found)
    print(f"{what}: {total:.1f} ms in {calls} kernels, {idle:.1f} ms idle")
    for row in found[:12]:
        print(f"  {row['ms']:8.2f} ms {row['calls']:5} x  {row['kernel'][:80]}")
    return {"what": what, "ms": total, "idle_ms": idle, "kernels": calls, "rows": found[:KEPT]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the record goes")
    path = parser.parse_args().json
    torch.manual_seed(0)
    record = circumstances("python bench/gpu_profile.py", 0) | {"profiles": []}
    model = random_model(MAMBA, GPU, torch.bfloat16).train()
    step = learning(model, random_tokens(MAMBA, 4, 2048, GPU))
    for recompute in ("nothing", "scan"):
        model.model.language_model.recompute = recompute
        record["profiles"].append(rows(f"training, 4 x 2048, recompute={recompute}", step))
    model.zero_grad(set_to_none=True)
    model.eval().requires_grad_(False)
    for b in (1, 8):
        run = reading(model, random_tokens(MAMBA, b, 800, GPU))
        run()  # the graph is made
        record["profiles"].append(rows(f"prompt, {b} x 800", run))
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
