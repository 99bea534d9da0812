"""What a stage writes down while it runs: sums between two lines, `log.jsonl`, and what the user sees."""

import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmamba.train.costs import Costs
from vlmamba.train.held_out import Seen
from vlmamba.train.progress import Progress
from vlmamba.train.stages import StageConfig
from vlmamba.train.trackers import open_trackers


class Journal:
    """The first process's account of a stage; `directory` None keeps nothing."""

    def __init__(
        self,
        stage: StageConfig,
        start: int,
        total: int,
        directory: Path | None,
        shown: bool,
        config: Mapping[str, Any],
    ) -> None:
        self.directory = directory if shown else None
        self.progress = Progress(stage.name, start, total) if shown else None
        self.trackers = (
            [] if self.directory is None else open_trackers(stage.trackers, self.directory, config)
        )

    def __enter__(self) -> "Journal":
        if self.progress is not None:
            self.progress.open()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.close()
        for tracker in self.trackers:
            tracker.close()

    def write(self, record: Mapping[str, Any]) -> None:
        """A line of the log."""
        self._append("log.jsonl", record)
        for tracker in self.trackers:
            figures = {k: float(v) for k, v in record.items() if k not in ("stage", "step")}
            tracker.log(record["step"], figures)
        if self.progress is not None:
            self.progress.show(record)

    def show(self, step: int, seen: Seen) -> None:
        """The loss of held-out samples, and what the model answered."""
        self._append("samples.jsonl", {"step": step, **asdict(seen)})
        told = "\n\n".join(f"{a.prompt}\n{a.said}\n({a.wanted})" for a in seen.answers)
        for tracker in self.trackers:
            tracker.log(step, {"held_out_loss": seen.loss})
            tracker.show(step, "answers", told)
        if self.progress is not None:
            self.progress.tell(f"step {step}: held-out loss {seen.loss:.4f}")
            for answer in seen.answers:
                asked = " ".join(answer.prompt.split())[-60:]
                self.progress.tell(f"  {asked!r}: {answer.said!r}, wanted {answer.wanted!r}")

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if self.directory is not None:
            with (self.directory / name).open("a") as file:
                file.write(json.dumps(record) + "\n")

    def advance(self, step: int) -> None:
        if self.progress is not None:
            self.progress.advance(step)


def cut_log(directory: Path, step: int) -> None:
    """Drops the lines of steps that are about to be done again."""
    for path in (directory / "log.jsonl", directory / "samples.jsonl"):
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
    pictures: int


class Interval:
    """Sums between two lines of the log.

    costs, peak: operations of a pass, and those that all devices together can do in a second, where they are known.
    """

    def __init__(self, costs: Costs | None = None, peak: float = 0.0) -> None:
        self.costs, self.peak = costs, peak
        self.begin()

    def begin(self) -> None:
        self.loss, self.supervised, self.tokens, self.pictures = 0.0, 0, 0, 0
        self.since = time.perf_counter()

    def add(self, done: Done) -> None:
        self.loss += done.loss * done.supervised
        self.supervised += done.supervised
        self.tokens += done.tokens
        self.pictures += done.pictures

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within takes no time."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before

    def close(self) -> dict[str, Any]:
        seconds = time.perf_counter() - self.since
        record = {
            "loss": self.loss / self.supervised if self.supervised else math.nan,
            "supervised": self.supervised,
            "tokens": self.tokens,
            "tokens_per_s": round(self.tokens / seconds, 1),
        }
        if self.costs is not None and self.peak:
            flops = self.costs.total(self.tokens, self.supervised, self.pictures)
            record["mfu"] = round(flops / seconds / self.peak, 4)
        self.begin()
        return record


def median_step(ends: Sequence[float]) -> float:
    """Seconds of a step, from the times at which each ended: the median without the first two, which warm up."""
    steps = [after - before for before, after in itertools.pairwise(ends)][1:]
    return statistics.median(steps) if steps else math.nan
