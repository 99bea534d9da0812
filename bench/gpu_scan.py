"""Checks the GPU scan and convolution against the reference on this machine's GPU, then times them.

    PYTHONPATH=. python bench/gpu_scan.py --json results/gpu_scan.json

Nothing is timed unless every output, state and gradient is right. bf16 inputs, float32 A, D and dt_bias, N = 16,
with D, z, dt_bias and softplus; medians of `triton.testing.do_bench`. The times of a shape are compared with its
memory floor: every input read once and every output written once, at the bandwidth of a copy measured in the
same run. `--set NAME=VALUE` overrides a block size of `vlmamba.ops.scan` (CHUNK, FORWARD_GROUP, ...), to tune.
"""

import argparse
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import torch
import triton
from triton.testing import do_bench

from vlmamba.ops import gpu, reference, scan

SHAPES = [(512, 100, 512), (1024, 90, 512), (16, 729, 2304), (8, 768, 5120), (8, 2048, 5120)]
STATE = 16
# Beside twice the reference's own error: the hardware's exponential, and half a unit of bfloat16.
SLACK = {torch.float32: 5e-5, torch.bfloat16: 2**-9}
WIDTH = 4


def scan_inputs(b: int, l: int, e: int, dtype: torch.dtype, seed: int) -> dict:
    """Arguments as a Mamba layer makes them: u, z and B, C are slices of two projections."""
    torch.manual_seed(seed)
    rank = max(16, e // 32)
    u, z = torch.randn(b, l, 2 * e, device="cuda", dtype=dtype).chunk(2, -1)
    projected = torch.randn(b, l, rank + 2 * STATE, device="cuda", dtype=dtype)
    B, C = projected[..., rank:].split(STATE, -1)
    return {
        "u": u, "dt": torch.randn(b, l, e, device="cuda", dtype=dtype), "B": B, "C": C, "z": z,
        "A": -torch.arange(1, STATE + 1, device="cuda", dtype=torch.float32).repeat(e, 1),
        "D": torch.randn(e, device="cuda"), "dt_bias": torch.randn(e, device="cuda") - 3,
    }  # fmt: skip


def conv_inputs(b: int, l: int, e: int, dtype: torch.dtype, seed: int) -> dict:
    torch.manual_seed(seed)
    x, _ = torch.randn(b, l, 2 * e, device="cuda", dtype=dtype).chunk(2, -1)
    weight = torch.randn(e, WIDTH, device="cuda")
    return {"x": x, "weight": weight, "bias": torch.randn(e, device="cuda")}


def results(op, inputs: dict, options: dict, dtype: torch.dtype | None = None) -> dict:
    """Both outputs of `op` and the gradient of each input."""
    leaves = {k: v.to(dtype or v.dtype).detach().requires_grad_() for k, v in inputs.items()}
    outputs = op(**leaves, **options)
    torch.manual_seed(1)
    seeds = [torch.randn(t.shape, device="cuda").to(t.dtype) for t in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), seeds)
    names = ["out", "last", *(f"d{k}" for k in leaves)]
    return dict(zip(names, [*(t.detach() for t in outputs), *grads], strict=True))


def check(name: str, inputs: dict, options: dict) -> list[dict]:
    """Our error against a float64 run beside the reference's own error in the inputs' dtype."""
    definition = getattr(reference, name)
    exact = results(definition, inputs, options, torch.float64)
    theirs = results(definition, inputs, options)
    ours = results(getattr(gpu, name), inputs, options)
    rows = []
    for key, right in exact.items():
        scale = right.abs().max().clamp(min=1e-30)
        error, allowed = ((t[key] - right).abs().max() / scale for t in (ours, theirs))
        allowed = 2 * allowed + SLACK[ours[key].dtype]
        rows.append(
            {
                "op": name,
                "tensor": key,
                "shape": list(inputs[next(iter(inputs))].shape),
                "dtype": str(ours[key].dtype)[6:],
                "error": float(error),
                "allowed": float(allowed),
                "right": bool(error <= allowed),
            }
        )
    return rows


def correctness() -> list[dict]:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for b, l, e in [(2, 1, 37), (3, 65, 133), (2, 729, 96)]:
            torch.manual_seed(2)
            reset = torch.rand(b, l, device="cuda") < 0.05
            state = torch.randn(b, e, STATE, device="cuda")
            taps = torch.randn(b, e, WIDTH - 1, device="cuda", dtype=dtype)
            full_scan = scan_inputs(b, l, e, dtype, 0) | {"initial_state": state}
            full_conv = conv_inputs(b, l, e, dtype, 0) | {"initial_state": taps}
            rows += check("selective_scan", full_scan, {"dt_softplus": True, "reset": reset})
            rows += check("causal_conv1d", full_conv, {"activation": "silu", "reset": reset})
    return rows


def tensor_bytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def timing(b: int, l: int, e: int, bytes_per_s: float) -> dict:
    row = {"b": b, "l": l, "e": e}
    for name, make, options in (
        ("selective_scan", scan_inputs, {"dt_softplus": True}),
        ("causal_conv1d", conv_inputs, {"activation": "silu"}),
    ):
        inputs = make(b, l, e, torch.bfloat16, 0)
        leaves = {k: v.detach().requires_grad_() for k, v in inputs.items()}
        op = getattr(gpu, name)
        with torch.no_grad():
            row[f"{name}_inference_ms"] = median_ms(lambda: op(**inputs, **options))  # noqa: B023
        row[f"{name}_forward_ms"] = median_ms(lambda: op(**leaves, **options))  # noqa: B023
        out, _ = op(**leaves, **options)
        grad = torch.randn_like(out)
        row[f"{name}_backward_ms"] = median_ms(
            lambda: torch.autograd.grad(out, list(leaves.values()), grad, retain_graph=True)  # noqa: B023
        )
        moved = tensor_bytes(*inputs.values(), out)
        row[f"{name}_forward_floor_ms"] = 1e3 * moved / bytes_per_s
        row[f"{name}_backward_floor_ms"] = 1e3 * (2 * moved) / bytes_per_s
    row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def median_ms(run) -> float:
    return do_bench(run, warmup=50, rep=200, return_mode="median")


def copy_bytes_per_s() -> float:
    source = torch.empty(2**29, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return 2 * tensor_bytes(source) / (1e-3 * median_ms(lambda: target.copy_(source)))


def commit() -> str:
    """The checkout's commit, or what git says instead."""
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except FileNotFoundError:
        return "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device: run this on a machine with a GPU")
    for assignment in arguments.set:
        name, _, value = assignment.partition("=")
        if not isinstance(getattr(scan, name, None), int) or not value.isdigit():
            parser.error(
                f"--set {assignment}: use NAME=NUMBER with a block size of vlmamba.ops.scan"
            )
        setattr(scan, name, int(value))

    record = {
        "script": "bench/gpu_scan.py", "date": datetime.now(timezone.utc).isoformat(), "commit": commit(),
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": triton.__version__, "seed": 0, "settings": arguments.set,
        "blocks": {k: getattr(scan, k) for k in ("CHUNK", "FORWARD_GROUP", "BACKWARD_GROUP", "BLOCK_E")},
        "correctness": correctness(),
    }  # fmt: skip
    wrong = [row for row in record["correctness"] if not row["right"]]
    for row in wrong:
        print("WRONG", row)
    print(
        f"{len(record['correctness']) - len(wrong)} of {len(record['correctness'])} tensors right"
    )
    if not wrong:
        bytes_per_s = copy_bytes_per_s()
        record["copy_tb_per_s"] = bytes_per_s / 1e12
        print(f"copy {bytes_per_s / 1e12:.2f} TB/s; times in ms, floors in brackets")
        print("b l e | scan inference, forward, backward | conv inference, forward, backward")
        record["timings"] = []
        for shape in SHAPES:
            torch.cuda.reset_peak_memory_stats()
            row = timing(*shape, bytes_per_s)
            record["timings"].append(row)
            cells = [
                f"{row[f'{op}_inference_ms']:.3f} {row[f'{op}_forward_ms']:.3f} "
                f"({row[f'{op}_forward_floor_ms']:.3f}) {row[f'{op}_backward_ms']:.3f} "
                f"({row[f'{op}_backward_floor_ms']:.3f})"
                for op in ("selective_scan", "causal_conv1d")
            ]
            print(*shape, "|", " | ".join(cells), flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
