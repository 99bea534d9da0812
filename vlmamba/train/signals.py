"""Stopping a run politely: a signal asks, the loop answers after the step in hand."""

import logging
import signal
import threading
from types import FrameType

log = logging.getLogger("vlmamba")


class StopRequest:
    """While entered, SIGTERM and Ctrl-C set `requested`; a second signal acts as it always did.

    Outside the main thread Python takes no signal handlers, and `requested` stays false.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        log.warning("%s: stopping after this step, with a checkpoint", signal.Signals(number).name)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()
