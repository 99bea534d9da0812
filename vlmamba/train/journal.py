"""What a stage writes down while it runs: sums between two lines, `log.jsonl`, and what the user sees."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmamba.train.progress import Progress
from vlmamba.train.stages import StageConfig


class Journal:
    """The first process's account of a stage; `directory` None keeps nothing."""

    def __init__(
        self, stage: StageConfig, start: int, total: int, directory: Path | None, shown: bool
    ) -> None:
        self.file = None if directory is None or not shown else directory / "log.jsonl"
        self.progress = Progress(stage.name, start, total) if shown else None

    def __enter__(self) -> "Journal":
        if self.progress is not None:
            self.progress.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.close()

    def write(self, record: Mapping[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps(record) + "\n")
        if self.progress is not None:
            self.progress.show(record)

    def advance(self, step: int) -> None:
        if self.progress is not None:
            self.progress.advance(step)


def cut_log(directory: Path, step: int) -> None:
    """Drops the lines of steps that are about to be done again."""
    path = directory / "log.jsonl"
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept))


@dataclass(frozen=True)
class Done:
    """One optimiser step: mean loss, gradient norm before clipping, supervised tokens, tokens; of all processes."""

    loss: float
    norm: float
    supervised: int
    tokens: int


class Interval:
    """Sums between two lines of the log."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.loss, self.supervised, self.tokens, self.since = 0.0, 0, 0, time.perf_counter()

    def add(self, done: Done) -> None:
        self.loss += done.loss * done.supervised
        self.supervised += done.supervised
        self.tokens += done.tokens

    def close(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.since
        record = {
            "loss": self.loss / self.supervised if self.supervised else math.nan,
            "supervised": self.supervised,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / seconds, 1),
        }
        self.begin()
        return record
