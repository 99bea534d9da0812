"""Times the 2.8B Mamba beside a Transformer of its size on this machine's GPU.

    PYTHONPATH=. python bench/gpu_model.py train --shape 4x2048 [--sides ours,eager,compiled] [--json FILE]
    PYTHONPATH=. python bench/gpu_model.py prefill --shape 1x800 --shape 8x800
    PYTHONPATH=. python bench/gpu_model.py decode --shape 1x800 --shape 64x800

Random weights and tokens, bfloat16. The Transformer is transformers' Llama (32 layers, width 2560, MLP 6912, SDPA)
with transformers' own loss and cache, eager and under torch.compile; compiling is timed apart. The sides of a shape
run in one process, one after the other; a training step is timed once the GPU has been at it for a while, as one that
has rested is faster at first. `--json` adds a run to the file, with the ceilings measured in it.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import circumstances
from torch import Tensor, nn

from vlmamba.measure import cost
from vlmamba.measure.language_model import (
    SIZES,
    learning,
    random_model,
    random_tokens,
    reading,
    writing_ms,
)
from vlmamba.measure.timing import copy_bytes_per_s, matmul_flops_per_s, median_ms

SEED = 0
GPU = torch.device("cuda")
MAMBA = SIZES["2.8b"]
LAYERS, WIDTH, MLP = 32, 2560, 6912
SIDES = ("ours", "eager", "compiled")
RECOMPUTE = ("nothing", "scan", "mixer")
REPEATS = {"train": 5, "prefill": 7, "decode": 30}
WARM_S = 3.0  # of training steps before those that count
LONG = 20_000  # positions, from which on a prompt is read three times
Row = dict[str, Any]


def transformer() -> Any:
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=LAYERS, num_attention_heads=WIDTH // 128,
        num_key_value_heads=WIDTH // 128, vocab_size=MAMBA.vocab_size, max_position_embeddings=2**17,
        attn_implementation="sdpa",
    )  # fmt: skip
    with GPU:
        torch.set_default_dtype(torch.bfloat16)
        model = transformers.LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model


def transformer_flops(b: int, l: int, logits: int) -> int:
    """Operations of a forward pass in matrix products; causal attention's own are half of l^2 each."""
    layer = 4 * WIDTH * WIDTH + 3 * WIDTH * MLP
    attention = 2 * b * (l * l // 2) * WIDTH
    return 2 * (b * l * LAYERS * layer + LAYERS * attention + logits * MAMBA.vocab_size * WIDTH)


def train(b: int, l: int, sides: list[str]) -> Iterator[Row]:
    ids = random_tokens(MAMBA, b, l, GPU)
    if "ours" in sides:
        model = random_model(MAMBA, GPU, torch.bfloat16).train()
        for recompute in RECOMPUTE:
            model.model.language_model.recompute = recompute
            row = {
                "side": "ours",
                "recompute": recompute,
                "flops": cost.training_flops(MAMBA, b * l),
            }
            try:
                yield row | step_row(learning(model, ids), model)
            except torch.OutOfMemoryError:
                yield row | {"ms": None}
            model.zero_grad(set_to_none=True)
            free()
        del model
    for side in ("eager", "compiled"):
        if side in sides:
            model = transformer().train()
            called = torch.compile(model, dynamic=False) if side == "compiled" else model
            row = step_row(partial(transformer_step, called, ids), model)
            yield {"side": side, "flops": 3 * transformer_flops(b, l, b * l)} | row
            del model, called
            torch.compiler.reset()
            free()


def transformer_step(model: Any, ids: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def step_row(step: Callable[[], None], model: nn.Module) -> Row:
    """Time and peak memory of a step, weights included; gradients are not there when it begins."""
    first = seconds(step)
    begun = time.perf_counter()
    while time.perf_counter() - begun < WARM_S:
        seconds(step)
    torch.cuda.reset_peak_memory_stats()
    milliseconds = median_ms(step, GPU, REPEATS["train"], warmup=1)
    peak = torch.cuda.max_memory_allocated() / 2**30
    return {"ms": milliseconds, "peak_gib": peak, "first_s": first}


def prefill(b: int, l: int, sides: list[str]) -> Iterator[Row]:
    ids = random_tokens(MAMBA, b, l, GPU)
    for side in sides:
        if side == "ours":
            model = random_model(MAMBA, GPU, torch.bfloat16).eval().requires_grad_(False)
            run, flops = reading(model, ids), cost.forward_flops(MAMBA, b * l, b)
        else:
            model = transformer().eval()
            called = torch.compile(model, dynamic=False) if side == "compiled" else model
            run, flops = partial(transformer_prefill, called, ids), transformer_flops(b, l, b)
        row = {"side": side, "flops": flops}
        try:
            first = seconds(run)
            taken = median_ms(run, GPU, REPEATS["prefill"] if b * l <= LONG else 3)
            yield row | {"ms": taken, "first_s": first}
        except torch.OutOfMemoryError:
            yield row | {"ms": None}
        del model, run
        called = None
        torch.compiler.reset()
        free()


@torch.inference_mode()
def transformer_prefill(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=True, logits_to_keep=1).logits


def decode(b: int, l: int, sides: list[str]) -> Iterator[Row]:
    """A token of every sequence after l others."""
    ids = random_tokens(MAMBA, b, l, GPU)
    for side in sides:
        start = time.perf_counter()
        if side == "ours":
            model = random_model(MAMBA, GPU, torch.bfloat16).eval().requires_grad_(False)
            taken = partial(writing_ms, model, ids, REPEATS["decode"])
        else:
            model = transformer().eval()
            run = transformer_decoding(model, ids, side == "compiled")
            taken = partial(median_ms, run, GPU, REPEATS["decode"])
        taken()
        first = time.perf_counter() - start
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        yield {"side": side, "ms": taken(), "bytes": weights, "first_s": first}
        del model, taken
        run = None
        torch.compiler.reset()
        free()


def transformer_decoding(model: Any, ids: Tensor, compiled: bool) -> Callable[[], Tensor]:
    """One token after `ids`: with a growing cache, or compiled with a static one and CUDA graphs."""
    from transformers import DynamicCache, StaticCache

    l = ids.shape[1]
    kind = StaticCache(config=model.config, max_cache_len=l + 256) if compiled else DynamicCache()
    with torch.inference_mode():
        cache = model(input_ids=ids, past_key_values=kind, logits_to_keep=1).past_key_values
    called = torch.compile(model, mode="reduce-overhead", dynamic=False) if compiled else model
    token, position = ids[:, -1:].clone(), torch.tensor([l], device=GPU)

    @torch.inference_mode()
    def run() -> Tensor:
        out = called(
            input_ids=token, past_key_values=cache, cache_position=position, logits_to_keep=1
        )
        position.add_(1)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    return run


def seconds(run: Callable[[], object]) -> float:
    """How long the first call takes, compiling included."""
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def show(row: Row, bandwidth: float, rate: float) -> str:
    side = f"{row['side']} {row.get('recompute', '')}".strip()
    text = f"{row['what']:8} B{row['b']:<3} L{row['l']:<6} {side:14}"
    if row["ms"] is None:
        return text + " out of memory"
    text += f"{row['ms']:9.2f} ms"
    if "flops" in row:
        text += f", matrix products at least {1e3 * row['flops'] / rate:.1f}"
    if "bytes" in row:
        text += f", weights at least {1e3 * row['bytes'] / bandwidth:.2f}"
    if "peak_gib" in row:
        text += (
            f", {1e3 * row['b'] * row['l'] / row['ms']:.0f} tok/s, peak {row['peak_gib']:.1f} GiB"
        )
    return f"{text}, first call {row['first_s']:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "prefill", "decode"])
    parser.add_argument(
        "--shape", action="append", required=True, help="BxL, e.g. 4x2048; or several"
    )
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--json", type=Path, help="the file that gets one run more")
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    bandwidth, rate = copy_bytes_per_s(GPU), matmul_flops_per_s(GPU)
    print(f"copy {bandwidth / 1e12:.2f} TB/s, matrix product {rate / 1e12:.0f} TFLOP/s")
    command = f"python bench/gpu_model.py {arguments.what} --shape " + " --shape ".join(
        arguments.shape
    )
    rows: list[Row] = []
    run = circumstances(f"{command} --sides {arguments.sides}", SEED) | {
        "copy_tb_per_s": bandwidth / 1e12, "matmul_tflops": rate / 1e12, "rows": rows,
    }  # fmt: skip
    file = arguments.json
    before = json.loads(file.read_text())["runs"] if file and file.exists() else []
    for shape in arguments.shape:
        b, l = (int(n) for n in shape.split("x"))
        measure = {"train": train, "prefill": prefill, "decode": decode}[arguments.what]
        for row in measure(b, l, arguments.sides.split(",")):
            rows.append({"what": arguments.what, "b": b, "l": l} | row)
            print(show(rows[-1], bandwidth, rate), flush=True)
            if file:  # after every row, for a run that is cut off
                file.write_text(json.dumps({"runs": [*before, run]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
