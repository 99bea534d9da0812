"""Times vlmamba's Mamba beside transformers' on a CPU, with equal random weights, and prints ratios.

    python bench/cpu.py [--repeats N] [--threads 2] [--json results/cpu.json]

The shape is Mamba-130M's. Prefill: 512 tokens into an empty state, logits of the last one. Decode: 64 tokens,
greedily, after a prompt. Train: forward, the side's own loss, backward and AdamW on one sequence of 512 tokens,
each side in processes of its own that import nothing of the other, so that its peak memory is its own;
transformers' side is its fastest on a CPU, which needs `pip install mambapy`. The two sides' logits, tokens and
losses must agree. Sides take turns; the record holds every time, the table the ratios of the medians and, for
their spread, the lowest and highest ratio of two turns that followed each other.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from record import circumstances
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vlmamba.config import MambaConfig
from vlmamba.mamba import MambaLM
from vlmamba.ops import backend, linear_cross_entropy
from vlmamba.state import State

SEED = 0
VOCABULARY, D_MODEL, LAYERS = 50280, 768, 24
PROMPT, DECODED = 512, 64
SHORT_PROMPT = 16
TRAIN_STEPS = 2  # timed, after one that is not
TARGETS = {
    "prefill": 3.0,
    "decode, float32": 1.0,
    "decode, bfloat16 weights": 1.8,
    "training step": 5.0,
    "peak memory of a training step": 2.0,
}


def theirs(weights: dict[str, Tensor] | None = None) -> nn.Module:
    """transformers' Mamba: with random weights, or with `weights` and its fastest training scan."""
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(SEED)
    config = transformers.MambaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        num_hidden_layers=LAYERS,
        use_mambapy=weights is not None,
    )
    if weights is None:
        return transformers.MambaForCausalLM(config)
    with torch.device("meta"):
        model = transformers.MambaForCausalLM(config)
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def ours(weights: dict[str, Tensor]) -> MambaLM:
    """vlmamba's, holding the given tensors themselves."""
    with torch.device("meta"):
        model = MambaLM(MambaConfig(D_MODEL, LAYERS, VOCABULARY))
    model.load_state_dict(weights, assign=True)
    model.lm_head.weight = model.backbone.embeddings.weight
    return model


def some_tokens(length: int) -> Tensor:
    return torch.randint(2, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(SEED))


class Theirs:
    """Prefill and decode as transformers' own `generate` does them, without its bookkeeping."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def prefill(self, tokens: Tensor) -> tuple[Tensor, object]:
        out = self.model(tokens, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1], out.cache_params

    def step(self, token: Tensor, cache: object) -> Tensor:
        return self.model(token, cache_params=cache, use_cache=True).logits[:, -1]


class Ours:
    """Prefill and decode from a `State`."""

    def __init__(self, model: MambaLM) -> None:
        self.model = model

    def prefill(self, tokens: Tensor) -> tuple[Tensor, State]:
        backbone = self.model.backbone
        dtype = backbone.embeddings.weight.dtype
        state = State.allocate(self.model.config, len(tokens), dtype=dtype)
        hidden = backbone(backbone.embeddings(tokens), state=state)
        return self.model.lm_head(hidden[:, -1]), state

    def step(self, token: Tensor, state: State) -> Tensor:
        return self.model(token, state=state)[:, -1]


def decode(side: Theirs | Ours, tokens: Tensor) -> tuple[float, list[int]]:
    """Seconds for the decoded tokens alone, and the tokens."""
    logits, state = side.prefill(tokens)
    chosen = []
    begin = time.perf_counter()
    for _ in range(DECODED):
        token = logits.argmax(-1, keepdim=True)
        chosen.append(token.item())
        logits = side.step(token, state)
    return time.perf_counter() - begin, chosen


def check_agreement(sides: dict[str, Theirs | Ours], tokens: Tensor) -> float:
    """The largest difference of the logits relative to the largest logit; exits when it is not small.

    Small is what float32 leaves of 24 random layers: either side is as far from its own float64 result.
    """
    expected, found = (sides[name].prefill(tokens)[0] for name in ("transformers", "vlmamba"))
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    if difference > 1e-3:
        sys.exit(f"the two sides disagree: relative difference of the logits {difference:.1e}")
    return difference


def measure_inference(repeats: int) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Seconds by measurement and side, the sides in turn, and the difference of the logits."""
    model = theirs().eval()
    sides: dict[str, Theirs | Ours] = {
        "transformers": Theirs(model),
        "vlmamba": Ours(ours(model.state_dict())),
    }
    halves: dict[str, Theirs | Ours] = {
        "transformers, bfloat16": Theirs(copy.deepcopy(model).bfloat16()),
        "vlmamba, bfloat16": Ours(copy.deepcopy(sides["vlmamba"].model).bfloat16()),
    }
    tokens = some_tokens(PROMPT)
    times: dict[str, dict[str, list[float]]] = {"prefill": {}, "decode": {}}
    with torch.inference_mode():
        difference = check_agreement(sides, tokens)
        for _ in range(repeats):
            for name, side in sides.items():
                begin = time.perf_counter()
                side.prefill(tokens)
                times["prefill"].setdefault(name, []).append(time.perf_counter() - begin)
        chosen = {}
        for _ in range(repeats):
            for name, side in (sides | halves).items():
                seconds, chosen[name] = decode(side, tokens[:, :SHORT_PROMPT])
                times["decode"].setdefault(name, []).append(seconds)
        if chosen["transformers"] != chosen["vlmamba"]:
            sys.exit("the two sides decode different tokens")
    return times, difference


def train_alone(side: str, weights_file: str) -> None:
    """Runs in a process of its own: prints as JSON the seconds of each step, the first step's loss and gradient
    norm, which two right sides share (after some steps of AdamW rounding alone parts them), and the peak memory.
    """
    weights = load_file(weights_file)
    weights["lm_head.weight"] = weights["backbone.embeddings.weight"]
    if side == "transformers":
        model = theirs(weights).train()

        def loss_of(ids: Tensor) -> Tensor:
            return model(ids, labels=ids, use_cache=False).loss
    else:
        model = ours(weights).train()

        def loss_of(ids: Tensor) -> Tensor:
            hidden = model.backbone(model.backbone.embeddings(ids))[0, :-1]
            return linear_cross_entropy(hidden, model.lm_head.weight, ids[0, 1:]) / len(hidden)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = some_tokens(PROMPT)
    seconds, first = [], []
    for _ in range(1 + TRAIN_STEPS):
        begin = time.perf_counter()
        loss = loss_of(ids)
        loss.backward()
        paused = time.perf_counter()
        if not first:
            first = [
                loss.item(),
                nn.utils.get_total_norm(p.grad for p in model.parameters()).item(),
            ]
        begin += time.perf_counter() - paused
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds[1:], "loss_and_norm": first, "peak_bytes": peak_bytes}))


def measure_training(rounds: int, threads: int) -> dict[str, dict[str, list[float]]]:
    """Seconds and peak bytes by side, the sides' processes in turn; exits when loss or gradients differ."""
    record: dict[str, dict[str, list[float]]] = {
        side: {"seconds": [], "loss_and_norm": [], "peak_bytes": []}
        for side in ("transformers", "vlmamba")
    }
    with tempfile.TemporaryDirectory() as directory:
        weights_file = f"{directory}/weights.safetensors"
        tensors = theirs().state_dict()
        del tensors["lm_head.weight"]  # the embedding's
        save_file(tensors, weights_file)
        for _ in range(rounds):
            for side, kept in record.items():
                command = [sys.executable, __file__, "--threads", str(threads)]
                command += ["--train-alone", side, weights_file]
                run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(run.stdout.splitlines()[-1])
                kept["seconds"] += found["seconds"]
                kept["loss_and_norm"] = found["loss_and_norm"]
                kept["peak_bytes"].append(found["peak_bytes"])
    first = [side["loss_and_norm"] for side in record.values()]
    if any(abs(a - b) > 1e-3 * abs(a) for a, b in zip(*first, strict=True)):
        sys.exit(f"the two sides' losses or gradients differ: {first}")
    return record


def ratios(times: dict, training: dict) -> dict[str, tuple[float, float, float]]:
    """How many times faster or smaller vlmamba is: by the medians, and the lowest and highest of the turns."""
    prefill, decoded = times["prefill"], times["decode"]
    trained = {side: found["seconds"] for side, found in training.items()}
    peaks = {side: found["peak_bytes"] for side, found in training.items()}
    float32, halves = ("transformers", "vlmamba"), ("transformers, bfloat16", "vlmamba, bfloat16")
    compared = {
        "prefill": (prefill, *float32),
        "decode, float32": (decoded, *float32),
        "decode, bfloat16 weights": (decoded, float32[0], halves[1]),
        "decode, both bfloat16": (decoded, *halves),
        "training step": (trained, *float32),
        "peak memory of a training step": (peaks, *float32),
    }
    found = {}
    for name, (measured, theirs_, ours_) in compared.items():
        turns = [a / b for a, b in zip(measured[theirs_], measured[ours_], strict=True)]
        middle = statistics.median(measured[theirs_]) / statistics.median(measured[ours_])
        found[name] = (middle, min(turns), max(turns))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="of prefill and decode")
    parser.add_argument("--rounds", type=int, default=6, help="of the training processes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the record goes")
    parser.add_argument("--train-alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.train_alone:
        train_alone(*arguments.train_alone)
        return
    if find_spec("mambapy") is None:  # transformers would take its slow path without a word
        sys.exit("transformers' fastest side needs mambapy: pip install mambapy")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"the machine is busy (load {load:.1f}): the ratios will not be worth a record")
    times, difference = measure_inference(arguments.repeats)
    training = measure_training(arguments.rounds, arguments.threads)
    found = ratios(times, training)
    print(f"{'transformers / vlmamba':34}{'ratio':>8}{'turns':>16}{'target':>8}")
    for name, (ratio, low, high) in found.items():
        turns = f"{low:.2f} to {high:.2f}"
        print(f"{name:34}{ratio:8.2f}{turns:>16}{TARGETS.get(name, ''):>8}")
    if arguments.json:
        record = circumstances("python bench/cpu.py", SEED) | {
            "threads": arguments.threads,
            "load": load,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "backend": backend.choose(torch.device("cpu"))._asdict(),
            "shape": {"d_model": D_MODEL, "n_layer": LAYERS, "vocab_size": VOCABULARY},
            "ratios": {name: round(ratio, 2) for name, (ratio, _, _) in found.items()},
            "turns": {
                name: [round(low, 2), round(high, 2)] for name, (_, low, high) in found.items()
            },
            "logits_difference": difference,
            "seconds": times,
            "training": training,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
