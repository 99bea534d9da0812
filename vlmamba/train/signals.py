"""Stopping a run politely: a signal asks, the loop answers after the step in hand."""

import logging
import signal
import threading
import time
from types import FrameType

log = logging.getLogger("vlmamba")
_ECHO = 2.0  # seconds


class StopRequest:
    """While entered, SIGTERM and Ctrl-C set `requested`; a second signal acts as it always did.

    One that follows at once does not count as the second: a terminal's Ctrl-C reaches every process, and torchrun then
    sends it once more. Outside the main thread Python takes no signal handlers, and `requested` stays false.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.requested = False
        self._quiet, self._asked = quiet, 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._asked = True, time.monotonic()
            if not self._quiet:
                name = signal.Signals(number).name
                log.warning("%s: stopping after this step, with a checkpoint", name)
        elif time.monotonic() - self._asked > _ECHO:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
