"""The text of an answer as its tokens arrive: never half a character, never text behind a stop."""

from collections.abc import Callable, Sequence

_HALF = "\ufffd"  # what a decoder writes for bytes that are not yet a character


class AnswerText:
    """Turns the tokens of one answer into text, piece by piece.

    The pieces joined are the answer: no white space around it, nothing from the first stop text on. A piece
    is held back while it may belong to a character or a stop text still to come, or end in white space.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: Sequence[str] = ()) -> None:
        """`decode`: ids to text, special tokens left out and white space kept."""
        self.stopped = False
        self.token_ids: list[int] = []
        self._decode = decode
        self._stop = tuple(stop)
        # Tokens before `_context` are out of sight; those before `_read` are already in the text.
        self._context = self._read = 0
        self._held = ""
        self._begun = False

    def push(self, token: int) -> str:
        """The text that this token makes certain, often all of its own; `stopped` once a stop text is there."""
        if self.stopped:
            return ""
        self.token_ids.append(token)
        seen = self._decode(self.token_ids[self._context : self._read])
        text = self._decode(self.token_ids[self._context :])
        if text.endswith(_HALF) or len(text) <= len(seen):
            return ""
        self._context, self._read = self._read, len(self.token_ids)
        return self._release(text[len(seen) :])

    def end(self) -> str:
        """The text still held back, when no token will follow."""
        if self.stopped:
            return ""
        seen = self._decode(self.token_ids[self._context : self._read])
        rest = self._decode(self.token_ids[self._context :])[len(seen) :]
        text = self._release(rest)
        return text if self.stopped else (text + self._held).rstrip()

    def _release(self, text: str) -> str:
        """Takes in new text and gives what no stop text can take back."""
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)].rstrip()
        hold = max((_overlap(text, stop) for stop in self._stop), default=0)
        certain = text[: len(text) - hold].rstrip()
        self._held = text[len(certain) :]
        return certain


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
