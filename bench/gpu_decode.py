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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from record import circumstances
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor

from vlmamba.config import ConnectorConfig, ModelConfig
from vlmamba.engine import Sampling, generate
from vlmamba.engine.forward import decode, embed, prefill
from vlmamba.engine.graphs import graphs_of
from vlmamba.measure.timing import copy_bytes_per_s, matmul_flops_per_s, median_ms
from vlmamba.model import VLMamba
from vlmamba.processing import ImageSettings, Processor
from vlmamba.recipes import MAMBA_2_8B, SIGLIP_SO400M
from vlmamba.template import IMAGE_TOKEN
from vlmamba.vlm import VLM

SEED = 0
GPU = torch.device("cuda")
BATCHES = (1, 2, 4, 8, 64)
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


def ceilings() -> dict[str, float]:
    return {
        "copy_tb_per_s": copy_bytes_per_s(GPU) / 1e12,
        "matmul_tflop_per_s": matmul_flops_per_s(GPU) / 1e12,
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
        "replay_ms": median_ms(lane.step, GPU, 200),
        "bytes": moved,
        "floor_ms": moved / limits["copy_tb_per_s"] / 1e9,
    }
    graphs.lanes.give_back(lane)
    if modules:
        tokens = some_tokens(b, 1)[:, 0]
        found["modules_ms"] = median_ms(lambda: decode(model, tokens, state), GPU, 9)
    found["tokens_per_s"] = 1e3 * b / found["engine_ms"]
    return found


def time_prefill(
    model: VLMamba, b: int, l: int, limits: dict[str, float], modules: bool
) -> dict[str, Any]:
    """ms until the logits after the last position stand on the device."""
    embeds = model.model.language_model.embeddings(some_tokens(b, l))
    mask = torch.ones(b, l, dtype=torch.bool)  # counted on the CPU
    graphs = graphs_of(model)
    state = model.allocate_state(b)
    read = partial(prefill, model, embeds, mask, state, graphs=graphs)
    projections = [
        p
        for n, p in model.model.language_model.layers.named_parameters()
        if n.endswith("proj.weight")
    ]
    flop = 2 * b * l * sum(p.numel() for p in projections)
    found = {
        "batch": b,
        "length": l,
        "engine_ms": median_ms(read, GPU, 15),
        "flop": flop,
        "floor_ms": flop / limits["matmul_tflop_per_s"] / 1e9,
    }
    if modules:
        found["modules_ms"] = median_ms(lambda: prefill(model, embeds, mask, state), GPU, 3)
    return found


def words_processor(model: VLMamba) -> Processor:
    """A processor whose tokenizer knows one word, so that a question of so many words is so many tokens."""
    image_token = model.config.image_token_id
    special = {"<|endoftext|>": 0, "<|padding|>": 1, IMAGE_TOKEN: image_token}
    tokenizer = Tokenizer(models.WordLevel({**special, "word": 2}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    vision = model.config.vision
    settings = ImageSettings.for_tower(vision)
    return Processor(tokenizer, settings, vision.num_patches, image_token_id=image_token)


def picture_in_one_pass(model: VLMamba, pixels: Tensor, ids: Tensor) -> float:
    """ms from pixels on the device to the first token on the host, picture and question read as one prompt."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    generation = generate(model, ids, pixels, sampling=Sampling(2))
    next(generation)
    taken = 1e3 * (time.perf_counter() - start)
    generation.close()
    return taken


def time_first_token(model: VLMamba, modules: bool) -> dict[str, Any]:
    """ms from a photograph in memory to the first token, as `VLM.answer` itself says, and where they go."""
    processor = words_processor(model)
    vlm = VLM(model, processor)
    photograph = Image.fromarray(
        np.random.default_rng(SEED).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    )
    question = "word " * (QUESTION - len(processor.continue_ids("word")) + 1)
    graphs = graphs_of(model)
    assert graphs is not None
    pixels = processor.pixel_values([photograph]).to(GPU)
    embeddings = model.model.language_model.embeddings
    prefix, rest = (
        torch.tensor([ids]) for ids in (processor.prefix_ids(1), processor.continue_ids(question))
    )
    state = model.allocate_state(1)
    embeds, asked = embed(model, prefix, pixels, graphs=graphs), embeddings(rest.to(GPU))
    whole = torch.cat([prefix, rest], 1)

    def answer() -> float:
        return 1e3 * vlm.answer(photograph, question, Sampling(2)).timings.first_token_s

    def prepare() -> float:
        start = time.perf_counter()
        processor.pixel_values([photograph])
        return 1e3 * (time.perf_counter() - start)

    found = {
        "picture": "640 x 480",
        "prefix_tokens": prefix.shape[1],
        "question_tokens": rest.shape[1],
        "answer_ms": statistics.median([answer() for _ in range(17)][6:]),
        "preparing_on_the_cpu_ms": statistics.median([prepare() for _ in range(9)]),
        "tower_and_connector_ms": median_ms(lambda: graphs.image_embeds(pixels), GPU, 15),
        "reading_the_picture_ms": median_ms(lambda: graphs.read(embeds, None, state), GPU, 15),
        "reading_the_question_ms": median_ms(lambda: graphs.read(asked, None, state), GPU, 15),
        "in_one_pass_ms": statistics.median(
            [picture_in_one_pass(model, pixels, whole) for _ in range(17)][6:]
        ),
    }
    if modules:
        look = partial(model.model.image_embeds, pixels)
        found["tower_and_connector_modules_ms"] = median_ms(look, GPU, 5)
    return found


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
        record["first_token"] = time_first_token(model, arguments.modules)
        print("first token", record["first_token"], flush=True)
        record["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if arguments.profile:
            profiles(model)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
