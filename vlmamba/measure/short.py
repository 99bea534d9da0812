"""The short form of the benchmarks, for any machine: seconds, not minutes.

On a CPU a small model, and only how many times as fast as the reference backend it is: absolute times of a CPU say
little elsewhere. On a GPU the shapes of the 2.8B model (or of the 130M one, where memory is short), in milliseconds.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from vlmamba.config import MambaConfig
from vlmamba.measure.language_model import (
    SIZES,
    learning,
    random_model,
    random_tokens,
    reading,
    writing_ms,
)
from vlmamba.measure.timing import median_ms
from vlmamba.ops import selective_scan

SMALL = MambaConfig(d_model=128, n_layer=2, vocab_size=2048)
SMALL_TOKENS = 128
ROOM = 30e9  # bytes of memory that the 2.8B model needs to train
REPEATS = {"cpu": 3, "cuda": 10}
WRITTEN = {"cpu": 16, "cuda": 128}  # tokens


@dataclass(frozen=True)
class Figure:
    """What was measured, of which size; milliseconds, or on a CPU how many times as fast as the reference."""

    what: str
    size: str
    milliseconds: float | None = None
    tokens_per_s: float | None = None
    times_as_fast: float | None = None


def measure(whats: list[str], device: torch.device) -> Iterator[Figure]:
    """The figures of each of `whats`: scan, decode, prefill, train."""
    for what in whats:
        for size, tokens, taken_ms in TIMED[what](device):
            ours = taken_ms()
            if device.type == "cuda":
                yield Figure(what, size, ours, 1e3 * tokens / ours)
            else:
                with _reference():
                    yield Figure(what, size, times_as_fast=taken_ms() / ours)


# A size in words, the tokens in it, and what measures how many milliseconds they take.
Timed = tuple[str, int, Callable[[], float]]


def _median(run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    return partial(median_ms, run, device, REPEATS[device.type], warmup=1)


def _scan(device: torch.device) -> Iterator[Timed]:
    on_gpu = device.type == "cuda"
    b, l, e = (8, 2048, 5120) if on_gpu else (1, 256, 256)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    u, dt, z = torch.randn(3, b, l, e, dtype=dtype, device=device)
    B, C = torch.randn(2, b, l, 16, dtype=dtype, device=device)
    A = -torch.arange(1, 17, dtype=torch.float32, device=device).repeat(e, 1)
    inputs = [t.requires_grad_() for t in (u, dt, A, B, C)]

    def forward() -> object:
        with torch.no_grad():
            return selective_scan(*inputs, z=z, dt_softplus=True)

    def both() -> object:
        y = selective_scan(*inputs, z=z, dt_softplus=True)
        assert isinstance(y, torch.Tensor)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    size = f"batch {b}, {l} positions, {e} channels"
    yield f"forward, {size}", b * l, _median(forward, device)
    yield f"forward and backward, {size}", b * l, _median(both, device)


def _model(device: torch.device) -> tuple[str, MambaConfig, torch.dtype]:
    if device.type != "cuda":
        return "small", SMALL, torch.float32
    name = "2.8b" if torch.cuda.mem_get_info(device)[0] > ROOM else "130m"
    return name, SIZES[name], torch.bfloat16


def _prefill(device: torch.device) -> Iterator[Timed]:
    name, config, dtype = _model(device)
    model = random_model(config, device, dtype).eval().requires_grad_(False)
    for b, l in [(1, 800), (8, 800)] if device.type == "cuda" else [(1, SMALL_TOKENS)]:
        ids = random_tokens(config, b, l, device)
        yield f"{name}, batch {b}, {l} tokens", b * l, _median(reading(model, ids), device)


def _decode(device: torch.device) -> Iterator[Timed]:
    name, config, dtype = _model(device)
    model = random_model(config, device, dtype).eval().requires_grad_(False)
    for b in (1, 8, 64) if device.type == "cuda" else (1,):
        ids = random_tokens(config, b, 8, device)
        yield f"{name}, batch {b}", b, partial(writing_ms, model, ids, WRITTEN[device.type])


def _train(device: torch.device) -> Iterator[Timed]:
    name, config, dtype = _model(device)
    model = random_model(config, device, dtype).train()
    model.model.language_model.recompute = "scan"
    b, l = (4, 2048) if device.type == "cuda" else (1, SMALL_TOKENS)
    ids = random_tokens(config, b, l, device)
    yield (
        f"{name}, batch {b}, {l} tokens, forward and backward",
        b * l,
        _median(learning(model, ids), device),
    )


TIMED = {"scan": _scan, "decode": _decode, "prefill": _prefill, "train": _train}


@contextmanager
def _reference() -> Iterator[None]:
    """The reference backend instead of the one that the device would get."""
    before = os.environ.get("VLMAMBA_BACKEND")
    os.environ["VLMAMBA_BACKEND"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["VLMAMBA_BACKEND"]
        else:
            os.environ["VLMAMBA_BACKEND"] = before
