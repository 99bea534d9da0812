"""Checks the GPU scan against the reference on this machine's GPU, then times them.

    PYTHONPATH=. python bench/gpu_scan.py --json results/gpu_scan.json

Nothing is timed unless every output, state and gradient is right, as tests/ops/test_cuda_scan.py demands.
The scan is timed in CUDA C++ and in Triton. bf16 inputs, float32 A, D and dt_bias, N = 16, with D, z, dt_bias and
softplus; medians of the GPU's own time, its cache emptied before every run, without autograd's time on the host.
Floors, from what was measured in the same run: `io`, every input read and every output written once at the bandwidth
of a copy; `exp`, the 16 exponentials a position and channel at 16 a clock and multiprocessor.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from record import circumstances

from vlmamba.measure.timing import copy_bytes_per_s, median_ms
from vlmamba.ops import cuda_runtime, cuda_scan, reference, scan

SHAPES = [  # b, l, e
    (8, 2048, 5120), (8, 768, 5120), (16, 729, 2304), (1, 768, 5120), (1, 65536, 5120),
    (10, 800, 5120), (4, 2048, 5120), (2, 4096, 5120), (1, 8192, 5120),
    (1, 2048, 5120), (4, 8192, 5120), (16, 729, 5120), (64, 1024, 1024),
]  # fmt: skip
STATE = 16
SCANS = {"cuda": cuda_scan.selective_scan, "triton": scan.selective_scan}
OPTIONS = {"dt_softplus": True}
REPEATS = {"cuda": 30, "triton": 7}
GPU = torch.device("cuda")


def scan_inputs(b: int, l: int, e: int, dtype: torch.dtype, seed: int = 0) -> dict:
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


def results(op: Callable, inputs: dict, options: dict, dtype: torch.dtype | None = None) -> dict:
    """Both outputs of `op` and the gradient of each input."""
    leaves = {k: v.to(dtype or v.dtype).detach().requires_grad_() for k, v in inputs.items()}
    outputs = op(**leaves, **options)
    torch.manual_seed(1)
    # Directions that every dtype can hold, so that all runs differentiate the same function.
    seeds = [torch.randn(t.shape, device="cuda").bfloat16().to(t.dtype) for t in outputs]
    grads = torch.autograd.grad(outputs, list(leaves.values()), seeds)
    names = ["out", "last", *(f"d{k}" for k in leaves)]
    return dict(zip(names, [*(t.detach() for t in outputs), *grads], strict=True))


def check(name: str, op: Callable, inputs: dict, options: dict) -> list[dict]:
    """Our errors against a float64 run, as parts of each tensor's largest value, and what is allowed.

    float32: 1e-5 for outputs, 1e-4 for gradients; bfloat16: twice the error of the reference run in bfloat16.
    """
    definition = reference.selective_scan
    exact = results(definition, inputs, options, torch.float64)
    theirs, ours = results(definition, inputs, options), results(op, inputs, options)
    rows = []
    for key, right in exact.items():
        scale = right.abs().max().clamp(min=1e-30)
        error, allowed = ((t[key] - right).abs().max() / scale for t in (ours, theirs))
        bound = 1e-4 if key.startswith("d") else 1e-5
        if ours[key].dtype == torch.bfloat16:
            bound = 2 * float(allowed)
        rows.append(
            {
                "op": name, "tensor": key, "shape": list(next(iter(inputs.values())).shape),
                "dtype": str(ours[key].dtype)[6:], "error": float(error), "allowed": bound,
                "right": bool(error <= bound),
            }
        )  # fmt: skip
    return rows


def correctness() -> list[dict]:
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for b, l, e in [(2, 1, 37), (3, 65, 133), (2, 257, 96)]:
            torch.manual_seed(2)
            reset = torch.rand(b, l, device="cuda") < 0.05
            state = torch.randn(b, e, STATE, device="cuda")
            inputs = scan_inputs(b, l, e, dtype) | {"initial_state": state}
            options = {**OPTIONS, "reset": reset}
            for name, op in SCANS.items():
                rows += check(name, op, inputs, options)
    return rows


def tensor_bytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def cuda_calls(inputs: dict) -> dict[str, Callable]:
    """Without gradients, forward with gradients, backward: each without autograd's own time on the host."""
    arguments = cuda_scan.Inputs(**inputs, initial_state=None, reset=None, **OPTIONS)
    tile = cuda_scan.backward_plan(*cuda_scan.sizes(arguments)).tile
    _, _, saved = cuda_scan.forward(arguments, save=tile)
    grad = torch.randn_like(inputs["dt"])
    return {
        "inference": lambda: cuda_scan.forward(arguments, save=0),
        "forward": lambda: cuda_scan.forward(arguments, save=tile),
        "backward": lambda: cuda_scan.backward(grad, None, arguments, saved),
    }


def triton_calls(inputs: dict) -> dict[str, Callable]:
    """The same of the Triton kernels."""
    order = ("u", "dt", "A", "B", "C", "D", "z", "dt_bias")
    arguments = (*(inputs[name] for name in order), None, None)
    _, _, saved = scan._forward(*arguments, True, save=True)
    grad = torch.randn_like(inputs["dt"])
    return {
        "inference": lambda: scan._forward(*arguments, True, save=False),
        "forward": lambda: scan._forward(*arguments, True, save=True),
        "backward": lambda: scan._backward(grad, None, *arguments, saved, True),
    }


CALLS = {"cuda": cuda_calls, "triton": triton_calls}


def floors(b: int, l: int, e: int, bytes_per_s: float, exponentials_per_s: float) -> dict:
    inputs = scan_inputs(b, l, e, torch.bfloat16)
    moved = tensor_bytes(*inputs.values(), inputs["u"])
    return {
        "b": b, "l": l, "e": e,
        "io_floor_ms": 1e3 * moved / bytes_per_s,
        "exp_floor_ms": 1e3 * b * l * e * STATE / exponentials_per_s,
    }  # fmt: skip


def timing(name: str, row: dict) -> dict[str, float]:
    inputs = scan_inputs(row["b"], row["l"], row["e"], torch.bfloat16)
    return {
        f"{way}_ms": median_ms(call, GPU, REPEATS[name], device_alone=True, cold=True)
        for way, call in CALLS[name](inputs).items()
    }


def write(record: dict, path: Path | None) -> None:
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device: run this on a machine with a GPU")
    if obstacle := cuda_runtime.unavailable(torch.cuda.current_device()):
        parser.error(f"CUDA C++ cannot be compiled here: {obstacle}")

    record = circumstances("bench/gpu_scan.py", seed=0)
    record["versions"] |= {"cuda": torch.version.cuda, "nvrtc": cuda_runtime.nvrtc_version()}
    record["correctness"] = correctness()
    wrong = [row for row in record["correctness"] if not row["right"]]
    for row in wrong:
        print("WRONG", row)
    print(
        f"{len(record['correctness']) - len(wrong)} of {len(record['correctness'])} tensors right"
    )
    if not wrong:
        properties = torch.cuda.get_device_properties()
        bytes_per_s = copy_bytes_per_s(GPU)
        clock_hz = (
            1e3 * triton.runtime.driver.active.utils.get_device_properties(0)["sm_clock_rate"]
        )
        exponentials_per_s = 16 * properties.multi_processor_count * clock_hz
        record |= {"copy_tb_per_s": bytes_per_s / 1e12, "clock_ghz": clock_hz / 1e9}
        print(f"copy {bytes_per_s / 1e12:.2f} TB/s, clock {clock_hz / 1e9:.3f} GHz")
        print("scan b l e | floors io exp | inference forward backward, ms")
        rows = [floors(*shape, bytes_per_s, exponentials_per_s) for shape in SHAPES]
        record["timings"] = rows
        for name in SCANS:  # of all shapes ours first, for a run that is cut off
            for row in rows:
                row[name] = timing(name, row)
                shape = " ".join(str(row[key]) for key in ("b", "l", "e"))
                least = f"{row['io_floor_ms']:.3f} {row['exp_floor_ms']:.3f}"
                taken = " ".join(f"{ms:.3f}" for ms in row[name].values())
                print(f"{name} {shape} | {least} | {taken}", flush=True)
                write(record, arguments.json)
    write(record, arguments.json)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
