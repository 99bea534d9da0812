"""Times answering on a GPU at the paper's size: decoding, prefill, and from a picture to the first token.

    PYTHONPATH=. python bench/gpu_decode.py [--json results/gpu_decode.json] [--profile]

SigLIP-SO400M/14 at 384 pixels, VSS-L2, a Mamba of 2.8 B parameters; random weights in bfloat16, whose arithmetic is
that of trained ones. Each figure stands beside its floor: the bytes it must move at the bandwidth of a copy, or its
matrix products at the rate of a large one, both measured in the same run; and beside the same model run module by
module (`--no-modules` leaves that out). Medians over rounds. `--profile` prints the kernels that take the most time.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import circumstances
from torch import Tensor

from vlmamba.config import ConnectorConfig, ModelConfig
from vlmamba.engine import Sampling, generate
from vlmamba.engine.forward import decode, embed, prefill
from vlmamba.engine.graphs import Graphs, graphs_of
from vlmamba.measure.timing import copy_bytes_per_s, matmul_flops_per_s
from vlmamba.model import VLMamba
from vlmamba.recipes import MAMBA_2_8B, SIGLIP_SO400M

SEED = 0
BATCHES = (1, 8, 64)
PREFILLS = ((1, 800), (8, 800), (1, 2048))
QUESTION = 24  # tokens


def paper_model() -> VLMamba:
    """VL-Mamba with 2.8 B parameters in its language model, random, bfloat16, on the GPU."""
    text = replace(MAMBA_2_8B, tie_embeddings=False)
    config = ModelConfig(SIGLIP_SO400M, ConnectorConfig(), text, image_token_id=50279)
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = VLMamba(config)
    torch.set_default_dtype(torch.float32)
    return model.eval().requires_grad_(False)


def median_ms(run: Callable[[], object], rounds: int = 7, repeats: int = 1) -> float:
    """Wall time with the device idle before and after, the median of `rounds`."""
    run()
    run()
    taken = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - start) / repeats)
    return statistics.median(taken)


def ceilings() -> dict[str, float]:
    device = torch.device("cuda")
    return {
        "copy_tb_per_s": copy_bytes_per_s(device) / 1e12,
        "matmul_tflop_per_s": matmul_flops_per_s(device) / 1e12,
    }


def weight_bytes(model: VLMamba) -> int:
    """What a step reads of the model: every layer and the head, of the embeddings next to nothing."""
    layers = model.model.language_model.layers.parameters()
    return sum(p.numel() * p.element_size() for p in (*layers, model.lm_head.weight))


def some_tokens(b: int, l: int) -> Tensor:
    return torch.randint(3, 50000, (b, l), device="cuda")


def time_decoding(
    model: VLMamba, b: int, limits: dict[str, float], modules: bool
) -> dict[str, Any]:
    """ms a step: of the engine with a reader that takes every token, of replays alone, of the modules."""
    state = model.allocate_state(b)
    moved = weight_bytes(model) + 2 * state.num_bytes
    steps = 100

    def answer() -> float:
        generation = generate(model, some_tokens(b, 4), sampling=Sampling(steps + 1))
        for step in generation:
            for row in step.rows:  # an eos of random weights ends nothing
                generation.finish_reasons[row] = None
        return 1e3 * generation.decode_s / steps

    answer()
    graphs = graphs_of(model)
    assert graphs is not None
    lane = graphs.lane(b)
    assert lane is not None
    found = {
        "batch": b,
        "engine_ms": statistics.median(answer() for _ in range(5)),
        "replay_ms": median_ms(lane.step, repeats=50),
        "bytes": moved,
        "floor_ms": moved / limits["copy_tb_per_s"] / 1e9,
    }
    graphs.lanes.give_back(lane)
    if modules:
        tokens = some_tokens(b, 1)[:, 0]
        found["modules_ms"] = median_ms(lambda: decode(model, tokens, state), rounds=3, repeats=3)
    found["tokens_per_s"] = 1e3 * b / found["engine_ms"]
    return found


def time_prefill(
    model: VLMamba, b: int, l: int, limits: dict[str, float], modules: bool
) -> dict[str, Any]:
    """ms until the logits after the last position stand on the device."""
    embeds = model.model.language_model.embeddings(some_tokens(b, l))
    mask = torch.ones(b, l, dtype=torch.bool, device="cuda")
    graphs = graphs_of(model)
    state = model.allocate_state(b)
    projections = [
        p
        for n, p in model.model.language_model.layers.named_parameters()
        if n.endswith("proj.weight")
    ]
    flop = 2 * b * l * sum(p.numel() for p in projections)
    found = {
        "batch": b,
        "length": l,
        "engine_ms": median_ms(lambda: prefill(model, embeds, mask, state, graphs=graphs)),
        "flop": flop,
        "floor_ms": flop / limits["matmul_tflop_per_s"] / 1e9,
    }
    if modules:
        found["modules_ms"] = median_ms(lambda: prefill(model, embeds, mask, state), rounds=3)
    return found


def first_token(model: VLMamba, pixels: Tensor, question: Tensor, graphs: Graphs | None) -> float:
    """As `VLM.stream` goes: the picture into a state, the question after it, the first token to the host; in ms."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    ids = torch.full((1, pixels.shape[0] * model.config.vision.num_patches + 4), 5, device="cuda")
    ids[:, 2:-2] = model.config.image_token_id
    state = model.allocate_state(1)
    embeds = embed(model, ids, pixels, graphs=graphs)
    if graphs is not None:
        graphs.read(embeds, None, state)
    else:
        model.model.language_model(embeds, state=state)
    generation = generate(model, question, state=state, sampling=Sampling(2))
    next(generation)
    taken = 1e3 * (time.perf_counter() - start)
    generation.close()
    return taken


def time_first_token(model: VLMamba) -> dict[str, Any]:
    size = model.config.vision.image_size
    pixels, question = torch.randn(1, 3, size, size, device="cuda"), some_tokens(1, QUESTION)
    graphs = graphs_of(model)
    assert graphs is not None
    look = median_ms(lambda: graphs.image_embeds(pixels))
    taken = [first_token(model, pixels, question, graphs) for _ in range(13)][4:]
    embeds = model.model.language_model.embeddings(question)
    state = model.allocate_state(1)
    read = median_ms(lambda: graphs.read(embeds, None, state))
    return {
        "question_tokens": QUESTION,
        "engine_ms": statistics.median(taken),
        "question_ms": read,
        "tower_and_connector_ms": look,
        "tower_and_connector_modules_ms": median_ms(lambda: model.model.image_embeds(pixels)),
    }


def print_profile(name: str, run: Callable[[], object]) -> None:
    """The 15 kernels that take the most of the device's time."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    found = sorted(profiled.key_averages(), key=lambda e: -e.device_time_total)[:15]
    print(f"{name}: kernels by time")
    for event in found:
        if event.device_time_total:
            mean = event.device_time_total / event.count
            total = event.device_time_total / 1e3
            print(f"  {total:8.3f} ms {event.count:5d} x {mean:8.2f} us  {event.key[:70]}")


def profiles(model: VLMamba) -> None:
    graphs = graphs_of(model)
    assert graphs is not None
    for b in BATCHES:
        lane = graphs.lane(b)
        assert lane is not None
        print_profile(f"decode, batch {b}", lane.step)
        graphs.lanes.give_back(lane)
    for b, l in PREFILLS[:2]:
        embeds = model.model.language_model.embeddings(some_tokens(b, l))
        state = model.allocate_state(b)
        for _ in range(2):
            graphs.read(embeds, None, state)
        print_profile(f"prefill {b} x {l}", lambda: graphs.read(embeds, None, state))  # noqa: B023
    pixels = torch.randn(1, 3, 384, 384, device="cuda")
    print_profile("tower and connector", lambda: graphs.image_embeds(pixels))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the record")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--no-modules", dest="modules", action="store_false")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("no CUDA device: run this on a machine with a GPU")
    model = paper_model()
    with torch.no_grad():
        limits = ceilings()
        record: dict[str, Any] = circumstances("bench/gpu_decode.py", SEED) | {"ceilings": limits}
        print(", ".join(f"{name} {value:.2f}" for name, value in limits.items()), flush=True)
        record["decode"] = []
        for b in BATCHES:
            row = time_decoding(model, b, limits, arguments.modules)
            record["decode"].append(row)
            print("decode", {k: round(v, 3) for k, v in row.items()}, flush=True)
        record["prefill"] = []
        for b, l in PREFILLS:
            row = time_prefill(model, b, l, limits, arguments.modules)
            record["prefill"].append(row)
            print("prefill", {k: round(v, 3) for k, v in row.items()}, flush=True)
        record["first_token"] = time_first_token(model)
        print("first token", {k: round(v, 3) for k, v in record["first_token"].items()}, flush=True)
        record["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if arguments.profile:
            profiles(model)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
