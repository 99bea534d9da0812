"""What the package remarks on its way, through the log: collected, or shown on standard error."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Notes(logging.Handler):
    def __init__(self, show: bool) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if self.show:
            print(f"note: {record.getMessage()}", file=sys.stderr)


@contextmanager
def noted(show: bool = True) -> Iterator[list[str]]:
    """The warnings logged inside, as a list that grows."""
    log, notes = logging.getLogger("vlmamba"), _Notes(show)
    log.addHandler(notes)
    try:
        yield notes.texts
    finally:
        log.removeHandler(notes)
