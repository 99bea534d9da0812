"""One row of a generation as text: its pieces while it is written, and the answer as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass

from vlmamba.engine.generation import FinishReason, Generation
from vlmamba.engine.text import AnswerText
from vlmamba.state import State


@dataclass(frozen=True)
class Timings:
    """Seconds until pictures and question were read and the first token stood there, and from there on."""

    first_token_s: float
    decode_s: float
    tokens_per_s: float | None  # after the first token; None for an answer of one


@dataclass(frozen=True)
class Answer:
    """What the model said. `token_ids` end with the end-of-text token where `finish_reason` is "eos"."""

    text: str
    token_ids: list[int]
    num_prompt_tokens: int
    finish_reason: FinishReason | None  # None: its reader stopped it
    timings: Timings


class Reply(Iterator[str]):
    """An answer being written: iterate over it for its text, piece by piece."""

    def __init__(self, generation: Generation, text: AnswerText, reading_s: float = 0.0) -> None:
        """`reading_s`: seconds already spent on this answer's prompt."""
        self._generation = generation
        self._text = text
        self._reading_s = reading_s
        self._pieces: list[str] = []
        self._token_ids: list[int] = []
        self._ended = False

    def __next__(self) -> str:
        while not self._ended:
            step = next(self._generation, None)
            if step is None:
                self._ended = True
                piece = self._text.end()
            else:
                piece = self._push(step.tokens[0])
            if piece:
                self._pieces.append(piece)
                return piece
        raise StopIteration

    def _push(self, token: int) -> str:
        self._token_ids.append(token)
        piece = self._text.push(token)
        if self._text.stopped:
            self._generation.finish(0)
        return piece

    def close(self) -> None:
        """Stops the answer where it is."""
        self._generation.close()

    @property
    def state(self) -> State:
        """What the model remembers: the prompt and the answer but for its last token."""
        return self._generation.state

    @property
    def answer(self) -> Answer:
        """The answer as far as it has been read."""
        generation, num_tokens = self._generation, len(self._token_ids)
        num_decoded = max(num_tokens - 1, 0)
        decode_s = generation.decode_s
        timings = Timings(
            first_token_s=self._reading_s + generation.first_token_s,
            decode_s=decode_s,
            tokens_per_s=num_decoded / decode_s if decode_s else None,
        )
        return Answer(
            text="".join(self._pieces),
            token_ids=list(self._token_ids),
            num_prompt_tokens=int(generation.state.length[0]) - num_decoded,
            finish_reason=generation.finish_reasons[0],
            timings=timings,
        )
