"""The ten benchmarks by name, each a module of its own."""

from importlib import import_module
from typing import cast

from vlmamba.eval.benchmark import Benchmark

NAMES = ("vqav2", "gqa", "scienceqa", "textvqa", "pope", "mme", "mmbench", "mmvet", "mmmu", "seed")


def benchmark(name: str) -> Benchmark:
    """The benchmark called `name`. Raises ValueError that lists the names there are."""
    if name not in NAMES:
        raise ValueError(f"no benchmark {name!r}; there are {', '.join(NAMES)}")
    return cast(Benchmark, import_module(f"vlmamba.eval.tasks.{name}"))
