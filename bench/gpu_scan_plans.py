"""Times every way in which the CUDA scan can divide its work, for the choice that `ops/scan_plans.py` makes.

    PYTHONPATH=. python bench/gpu_scan_plans.py [--json results/gpu_scan_plans.json]

As `bench/gpu_scan.py` times: bfloat16, the GPU's own time, its cache emptied before every run.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from gpu_scan import GPU, OPTIONS, scan_inputs
from record import circumstances

from vlmamba.measure.timing import median_ms
from vlmamba.ops import cuda_scan, scan_plans
from vlmamba.ops.scan_plans import Plan

SHAPES = [  # b, l, e
    (4, 2048, 5120), (10, 800, 5120), (8, 2048, 5120), (2, 4096, 5120), (1, 8192, 5120), (1, 768, 5120),
    (16, 729, 2304),
]  # fmt: skip
REPEATS = 10


def time(run: Callable[[], object]) -> float:
    return median_ms(run, GPU, REPEATS, 1, device_alone=True, cold=True)


def name(plan: Plan) -> str:
    """Threads, lanes, channels a thread; how many segments, in turn or at once."""
    parts = f"{plan.threads} threads, {plan.lanes} lanes, {plan.cpt} channels"
    if plan.segments == 1:
        return parts
    return f"{parts}, {plan.segments} segments {'at once' if plan.cut else 'in turn'}"


def timings(b: int, l: int, e: int) -> dict:
    arguments = cuda_scan.Inputs(
        **scan_inputs(b, l, e, torch.bfloat16), initial_state=None, reset=None, **OPTIONS
    )
    n, *others = cuda_scan.sizes(arguments)
    chosen = scan_plans.forward_plan(n, *others), scan_plans.backward_plan(n, *others)
    tile = chosen[1].tile
    row: dict = {"b": b, "l": l, "e": e, "chosen": [name(plan) for plan in chosen]}
    calls = {
        "forward": lambda: cuda_scan.forward(arguments, save=0),
        "forward, states saved": lambda: cuda_scan.forward(arguments, save=tile),
        "states alone": lambda: cuda_scan.forward(arguments, save=tile, output=False),
    }
    row |= {f"{way}_ms": time(call) for way, call in calls.items()}
    _, _, saved = cuda_scan.forward(arguments, save=tile)
    grad, row["backward_ms"] = torch.randn_like(arguments.dt), {}
    for plan in scan_plans.BACKWARD:
        cuda_scan.backward_plan = lambda *_, plan=plan: plan
        row["backward_ms"][name(plan)] = time(
            lambda: cuda_scan.backward(grad, None, arguments, saved)
        )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    path = parser.parse_args().json
    rows = []
    record = circumstances("python bench/gpu_scan_plans.py", 0) | {"timings": rows}
    for shape in SHAPES:
        rows.append(timings(*shape))
        print(json.dumps(rows[-1]), flush=True)
        if path:
            path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
