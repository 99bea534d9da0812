"""What the finished runs of an output folder answered, right or wrong, question by question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmamba.eval.reading import get, read_json

PLAN = "ablation.json"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcomes:
    """Finished runs by variant and seed: (variant, seed) -> set -> 1 for right, 0 for wrong, question by question.

    `parameters`: each variant's connector and language model; `plan`: what the folder was begun with.
    """

    runs: dict[tuple[str, int], dict[str, Array]]
    parameters: dict[str, dict[str, int]]
    plan: dict[str, Any]

    def seeds(self, *variants: str) -> list[int]:
        """The seeds with which all of these variants were run."""
        seeds = sorted({seed for _, seed in self.runs})
        return [s for s in seeds if all((variant, s) in self.runs for variant in variants)]

    @property
    def sets(self) -> dict[str, int]:
        """How many questions each set has."""
        first = next(iter(self.runs.values()), {})
        return {name: len(right) for name, right in first.items()}

    def right(self, variant: str, seeds: Sequence[int], sets: Sequence[str]) -> list[Array]:
        """For each set an array (seeds, questions)."""
        return [np.stack([self.runs[variant, seed][name] for seed in seeds]) for name in sets]


def is_ablation(folder: Path) -> bool:
    """Whether `vlmamba ablate` wrote the folder."""
    return (folder / PLAN).exists()


def read_outcomes(folder: Path) -> Outcomes:
    """Raises FileNotFoundError for a folder of another kind, ValueError for a broken file or runs that were asked
    different questions."""
    if not is_ablation(folder):
        raise FileNotFoundError(f"{folder}: no ablations; make them with `vlmamba ablate`")
    runs: dict[tuple[str, int], dict[str, Array]] = {}
    parameters: dict[str, dict[str, int]] = {}
    exams: dict[str, Path] = {}
    for path in sorted((folder / "runs").glob("*.json")):
        record = read_json(path)
        variant = get(record, "variant", str(path), str)
        exams[get(record, "exam", str(path), str)] = path
        try:
            outcomes = {
                name: np.array(unpack(text), np.float64)
                for name, text in get(record, "outcomes", str(path), dict).items()
            }
        except ValueError as error:
            raise ValueError(f"{path}: {error}; remove it to have it made again") from None
        runs[variant, get(record, "seed", str(path), int)] = outcomes
        parameters[variant] = {
            part: get(record, f"{part}_parameters", str(path), int)
            for part in ("connector", "language")
        }
    if len(exams) > 1:
        one, other, *_ = exams.values()
        raise ValueError(f"{one} and {other} were asked different questions: use another folder")
    return Outcomes(runs, parameters, read_json(folder / PLAN))


def pack(right: list[int]) -> str:
    """Zeros and ones as hexadecimal digits behind their number."""
    return f"{len(right)}:{int('1' + ''.join(map(str, right)), 2):x}"


def unpack(text: str) -> list[int]:
    """What `pack` was given; raises ValueError for any other text."""
    count, _, digits = text.partition(":")
    right = [int(bit) for bit in bin(int(digits, 16))[3:]]
    if len(right) != int(count):
        raise ValueError(f"{text:.20}... does not hold {count} outcomes")
    return right
