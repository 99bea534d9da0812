"""How far a long count is: a bar on a terminal, now and then a plain line elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 30.0


class Meter:
    """Things done (`verb`: answered, read), how many a second and the time left, on standard error."""

    def __init__(
        self, task: str, start: int, total: int, quiet: bool = False, verb: str = "answered"
    ) -> None:
        self.task, self.start, self.total, self.done = task, start, total, start
        self.verb = verb
        self.quiet = quiet
        self.began = self.said = time.monotonic()
        console = Console(file=sys.stderr)
        self.bar = None
        if console.is_terminal and not quiet:
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
            )
            self.row = self.bar.add_task(task, total=total, completed=start, rate="")

    def __enter__(self) -> "Meter":
        if self.bar is not None:
            self.bar.start()
        elif self.start and not self.quiet:
            self._say(f"{self.task}: {self.start:,} of {self.total:,} were {self.verb} before")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def advance(self, count: int) -> None:
        """Counts things that are now done for good."""
        self.done += count
        now = time.monotonic()
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        if self.bar is not None:
            self.bar.update(self.row, completed=self.done, rate=f"{rate:,.1f}/s")
        elif not self.quiet and (now - self.said >= LINE_EVERY_S or self.done == self.total):
            self.said = now
            left = (self.total - self.done) / rate if rate else 0
            self._say(
                f"{self.task}: {self.done:,} of {self.total:,} {self.verb}, {rate:,.1f}/s, "
                f"{left:,.0f} s left"
            )

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
