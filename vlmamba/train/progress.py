"""What the user sees of a running stage: a progress bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Steps done, loss, tokens per second and time left, on standard error."""

    def __init__(self, stage: str, start: int, total: int) -> None:
        self.stage, self.start, self.total = stage, start, total
        self.began = time.monotonic()
        console = Console(file=sys.stderr)
        self.bar = None
        if console.is_terminal:
            self.bar = Bar(
                TextColumn("[bold]{task.description}"), BarColumn(), TaskProgressColumn(),
                MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
                TimeElapsedColumn(), TimeRemainingColumn(), console=console,
            )  # fmt: skip
            self.task = self.bar.add_task(stage, total=total, completed=start, numbers="")

    def open(self) -> None:
        if self.bar is not None:
            self.bar.start()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, step: int) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def tell(self, line: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def show(self, record: Mapping[str, Any]) -> None:
        """Shows a line of the log."""
        numbers = f"loss {record['loss']:.4f}  {record['tokens_per_s']:,.0f} tokens/s"
        if "mfu" in record:
            numbers += f"  MFU {record['mfu']:.1%}"
        if "memory_gb" in record:
            numbers += f"  {record['memory_gb']:.1f} GB"
        if self.bar is not None:
            self.bar.update(self.task, numbers=numbers)
            return
        step = record["step"]
        left = (time.monotonic() - self.began) / (step - self.start) * (self.total - step)
        self.tell(f"{self.stage} {step}/{self.total}  {numbers}  {duration(left)} left")


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
