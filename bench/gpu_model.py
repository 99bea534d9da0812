"""Times the 2.8B Mamba beside a Transformer of its size on this machine's GPU.

    PYTHONPATH=. python bench/gpu_model.py --only train --shape 4x2048 [--sides ours,eager,compiled] [--json FILE]

Random weights and tokens, bfloat16. The Transformer is transformers' Llama (32 layers, width 2560, MLP 6912, SDPA),
eager and under torch.compile, with transformers' own loss. Sides of a shape are timed in one process, one after the
other; compiling is timed apart. `--json` adds a run to the file, with the ceilings measured in it.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from record import circumstances
from torch import Tensor, nn

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM
from vlmamba.measure import cost
from vlmamba.measure.timing import copy_bytes_per_s, matmul_flops_per_s, median_ms
from vlmamba.ops import linear_cross_entropy

SEED = 0
GPU = torch.device("cuda")
MAMBA = MambaConfig(d_model=2560, n_layer=64)
TRANSFORMER = {
    "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 32, "num_attention_heads": 20,
    "num_key_value_heads": 20, "vocab_size": MAMBA.vocab_size, "max_position_embeddings": 65536,
}  # fmt: skip
REPEATS = 5


def mamba() -> MambaLM:
    with GPU:
        return MambaLM(MAMBA)


def transformer() -> nn.Module:
    import transformers

    with GPU:
        config = transformers.LlamaConfig(**TRANSFORMER, attn_implementation="sdpa")
        return transformers.LlamaForCausalLM(config)


def tokens(b: int, l: int) -> Tensor:
    return torch.randint(2, MAMBA.vocab_size, (b, l), device=GPU)


def mamba_loss(model: MambaLM, ids: Tensor) -> Tensor:
    hidden = model.backbone(model.backbone.embeddings(ids))[:, :-1].flatten(0, 1)
    return linear_cross_entropy(hidden, model.lm_head.weight, ids[:, 1:].flatten()) / len(hidden)


def transformer_loss(model: nn.Module, ids: Tensor) -> Tensor:
    return model(ids, labels=ids, use_cache=False).loss


def attention_flops(b: int, l: int) -> int:
    """Causal attention's own products, forward: scores and their sum over values, half of l^2 each."""
    return TRANSFORMER["num_hidden_layers"] * 2 * 2 * b * (l * l // 2) * TRANSFORMER["hidden_size"]


def train(b: int, l: int, sides: list[str]) -> Iterator[dict]:
    """Forward and backward of the next-token loss over every position; gradients are made anew by each step."""
    ids = tokens(b, l)
    if "ours" in sides:
        model = mamba().train()
        for recompute in ("nothing", "scan", "mixer"):
            model.backbone.recompute = recompute
            try:
                row = train_step(lambda: mamba_loss(model, ids), model)
            except torch.OutOfMemoryError:
                continue
            row["flops"] = cost.training_flops(MAMBA, b * l)
            yield {"side": f"ours, recompute {recompute}", **row}
        del model
        free()
    for side in ("eager", "compiled"):
        if side in sides:
            model = transformer().train()
            run = transformer_loss
            if side == "compiled":
                run = torch.compile(transformer_loss, dynamic=False)
            row = train_step(lambda: run(model, ids), model)  # noqa: B023
            matrices = sum(p.numel() for p in model.parameters()) - model.lm_head.weight.numel()
            row["flops"] = 3 * (2 * b * l * matrices + attention_flops(b, l))
            yield {"side": f"transformer, {side}", **row}
            del model, run
            torch.compiler.reset()
            free()


def train_step(loss: Callable[[], Tensor], model: nn.Module) -> dict:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - start
    torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(step, GPU, REPEATS, warmup=1)
    model.zero_grad(set_to_none=True)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"ms": milliseconds, "peak_gib": peak, "first_step_s": first}


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def show(row: dict, rate: float) -> str:
    text = f"{row['what']:8} B{row['b']} L{row['l']:<6} {row['side']:26} {row['ms']:8.1f} ms"
    if "flops" in row:
        floor = 1e3 * row["flops"] / rate
        text += f"  {row['b'] * row['l'] / row['ms'] * 1e3:8.0f} tok/s  matrix products at least {floor:.1f} ms"
    if "peak_gib" in row:
        text += f"  peak {row['peak_gib']:.1f} GiB  first {row['first_step_s']:.0f} s"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="train", choices=["train"])
    parser.add_argument(
        "--shape", action="append", help="BxL, e.g. 4x2048; several times for several"
    )
    parser.add_argument("--sides", default="ours,eager,compiled")
    parser.add_argument("--json", type=Path, help="the file that gets one run more")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    bandwidth, rate = copy_bytes_per_s(GPU), matmul_flops_per_s(GPU)
    print(f"copy {bandwidth / 1e12:.2f} TB/s, matrix product {rate / 1e12:.0f} TFLOP/s")
    rows = []
    for shape in arguments.shape or ["4x2048"]:
        b, l = (int(n) for n in shape.split("x"))
        for row in train(b, l, arguments.sides.split(",")):
            rows.append({"what": arguments.only, "b": b, "l": l} | row)
            print(show(rows[-1], rate), flush=True)
    if arguments.json:
        run = circumstances("python bench/gpu_model.py", SEED) | {
            "copy_tb_per_s": bandwidth / 1e12, "matmul_tflops": rate / 1e12, "rows": rows,
        }  # fmt: skip
        runs = json.loads(arguments.json.read_text())["runs"] if arguments.json.exists() else []
        arguments.json.write_text(json.dumps({"runs": [*runs, run]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
