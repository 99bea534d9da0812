"""What every benchmark speaks of: questions, answers given, samples scored, and the scores of a run."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Protocol = Literal["official", "lmms-eval", "vlmevalkit"]


@dataclass(frozen=True)
class Question:
    """One question as a model gets it, and what its scorer needs to know.

    `keys` are the names by which an answer may call it; `image` is a path below the benchmark's image folder,
    or the file's bytes where the benchmark embeds them; `gold` is the task's own.
    """

    id: str
    prompt: str
    gold: Any
    image: str | bytes | None = None
    category: str = ""
    keys: tuple[Hashable, ...] = ()

    def __post_init__(self) -> None:
        if not self.keys:
            object.__setattr__(self, "keys", (self.id,))


class NotScorableError(ValueError):
    """Answers without a score here: only the benchmark's server or a judge knows, or none counts for the metric."""


# A question and the raw text that was answered to it, or None.
Pair = tuple[Question, str | None]


@dataclass(frozen=True)
class Sample:
    """The evidence for one score: what was said, how it was read, by which rule."""

    id: str
    category: str
    prompt: str
    raw: str | None
    parsed: str
    gold: str
    score: float
    rule: str


@dataclass(frozen=True)
class Scores:
    """A benchmark's result. `value` and its 95 % `interval` are on the scale that papers print."""

    task: str
    protocol: Protocol
    metric: str
    value: float
    interval: tuple[float, float]
    tables: dict[str, dict[str, Any]]
    samples: list[Sample]
    num_questions: int
    num_missing: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything, samples included, as plain data for JSON."""
        return asdict(self)


def percent(scores: Sequence[float]) -> float:
    """100 times the mean; 0 for no scores at all, where public scripts divide by zero."""
    return 100 * sum(scores) / len(scores) if scores else 0.0


def percent_by(samples: Sequence[Sample], groups: Sequence[str]) -> dict[str, float]:
    """The percentage per group, groups in the order of their first appearance."""
    scores: dict[str, list[float]] = {}
    for sample, group in zip(samples, groups, strict=True):
        scores.setdefault(group, []).append(sample.score)
    return {group: percent(values) for group, values in scores.items()}
