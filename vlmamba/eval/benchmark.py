"""What a benchmark's module offers."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol as Interface

from vlmamba.eval.answers import Answer
from vlmamba.eval.task import Pair, Protocol, Question, Scores


class Benchmark(Interface):
    """The interface of `vlmamba.eval.tasks.*`: read the questions, name an answer's question, score, submit."""

    MAX_NEW_TOKENS: int
    PROTOCOLS: tuple[Protocol, ...]

    def read(self, data: Path) -> tuple[list[Question], list[str]]:
        """All questions below `data`, and notes about the files (their version; what to compare with)."""
        ...

    def answer_key(self, answer: Answer) -> Hashable:
        """A key of the question that `answer` is for."""
        ...

    def score(self, pairs: Sequence[Pair], protocol: Protocol = "official") -> Scores:
        """Scores every pair by the named protocol's rules."""
        ...

    def write_submission(self, pairs: Sequence[Pair], path: Path) -> None:
        """Writes the answers in the form that the benchmark's server or official script takes."""
        ...
