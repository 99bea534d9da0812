"""Times the norm, the convolution and the loss on this machine's GPU, beside what their bytes cost at least.

    PYTHONPATH=. python bench/gpu_ops.py [--json results/gpu_ops.json]

bfloat16, the shapes of a layer of the 2.8B model. Floors: every input read once and every output written once at the
bandwidth of a copy measured in the same run; for the loss its three matrix products at the rate of a large one.
`tests/ops` checks the same ops against their definitions (`pytest -m gpu`).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from record import circumstances
from torch import Tensor

from vlmamba import ops
from vlmamba.measure.timing import copy_bytes_per_s, matmul_flops_per_s, median_ms

SEED = 0
SHAPES = [(4, 2048), (8, 2048), (1, 800)]
D_MODEL, D_INNER, WIDTH, VOCABULARY = 2560, 5120, 4, 50280
GPU = torch.device("cuda")


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device=GPU, dtype=dtype).requires_grad_()


def size(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def both_ways(
    op: Callable, inputs: list[Tensor], grads: list[Tensor] | None = None
) -> dict[str, float]:
    """Times of the forward pass and of the backward pass."""
    outputs = op(*inputs)
    grads = grads or [torch.randn_like(t) for t in outputs]
    backward = lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)  # noqa: E731
    return {
        "forward_ms": median_ms(lambda: op(*inputs), GPU, 30, device_alone=True),
        "backward_ms": median_ms(backward, GPU, 30, device_alone=True),
    }


def norm(b: int, l: int) -> dict[str, float]:
    weight, hidden = random(D_MODEL), random(b, l, D_MODEL)
    residual = random(b, l, D_MODEL, dtype=torch.float32)
    row = both_ways(ops.add_rms_norm, [hidden, residual, weight])
    row["forward_bytes"] = 2 * size(hidden) + 2 * size(residual)
    # The output, its gradient and the residual's; both gradients of what went in.
    row["backward_bytes"] = 3 * size(hidden) + 2 * size(residual)
    return row


def convolution(b: int, l: int) -> dict[str, float]:
    """As in a layer: two readers' gradients, and the gate's where the scan leaves it."""
    xz, weight, bias = random(b, l, 2 * D_INNER), random(D_INNER, WIDTH), random(D_INNER)
    room = torch.randn_like(xz)
    grads = [*torch.randn(2, b, l, D_INNER, device=GPU, dtype=xz.dtype), room[..., D_INNER:]]
    row = both_ways(lambda *t: ops.gated_conv1d(*t, "silu"), [xz, weight, bias], grads)
    row["forward_bytes"], row["backward_bytes"] = size(xz), 2 * size(xz)
    return row


def loss(b: int, l: int) -> dict[str, float]:
    x, weight = random(b * l, D_MODEL), random(VOCABULARY, D_MODEL)
    targets = torch.randint(VOCABULARY, (b * l,), device=GPU)

    def step() -> None:
        torch.autograd.grad(ops.linear_cross_entropy(x, weight, targets), [x, weight])

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    row = {"both_ms": median_ms(step, GPU, 10, device_alone=True)}
    row["peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    row["logits_mib"] = 2 * b * l * VOCABULARY / 2**20
    row["both_flops"] = 6 * b * l * D_MODEL * VOCABULARY
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where the record goes")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    bandwidth, rate = copy_bytes_per_s(GPU), matmul_flops_per_s(GPU)
    print(f"copy {bandwidth / 1e12:.2f} TB/s, matrix product {rate / 1e12:.0f} TFLOP/s")
    rows = []
    for b, l in SHAPES:
        for op in (norm, convolution, loss):
            row = {"op": op.__name__, "b": b, "l": l} | op(b, l)
            for key in ("forward", "backward"):
                if f"{key}_bytes" in row:
                    row[f"{key}_floor_ms"] = 1e3 * row[f"{key}_bytes"] / bandwidth
            if "both_flops" in row:
                row["both_floor_ms"] = 1e3 * row["both_flops"] / rate
            rows.append(row)
            shown = (
                f"{key} {row[f'{key}_ms']:.3f} ms (floor {row[f'{key}_floor_ms']:.3f})"
                for key in ("forward", "backward", "both")
                if f"{key}_ms" in row
            )
            print(f"{op.__name__:12} B{b} L{l}", *shown, flush=True)
    if arguments.json:
        record = circumstances("python bench/gpu_ops.py", SEED) | {
            "copy_tb_per_s": bandwidth / 1e12, "matmul_tflops": rate / 1e12, "rows": rows,
        }  # fmt: skip
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
