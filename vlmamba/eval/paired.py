"""Two runs on the same questions: which samples changed, and the paired bootstrap interval of the difference.

Resampling questions, not answers, keeps both answers to a question together: what is hard for both runs cancels out,
and the interval is the narrower for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmamba.eval.intervals import bootstrap_interval
from vlmamba.eval.task import Sample, Scores
from vlmamba.eval.tasks.mmbench import ROTATION
from vlmamba.eval.tasks.mme import PERCEPTION

Array = NDArray[np.float64]
# Units of resampling by stratum, each an array (units, k) in one order, and the metric of their means.
Units = dict[str, dict[str, list[float]]]
Metric = Callable[[list[Array]], Array]


@dataclass(frozen=True)
class Comparison:
    """`after` against `before` on the questions that both answered.

    `difference` is after - before of `metric` on these; `gained` and `lost` are ids whose score rose or fell,
    `reworded` those whose answer changed and whose score did not.
    """

    task: str
    metric: str
    num_common: int
    num_alone: int
    before: float
    after: float
    interval: tuple[float, float]
    gained: list[str]
    lost: list[str]
    reworded: list[str]

    @property
    def difference(self) -> float:
        """after - before."""
        return self.after - self.before


def compare(before: Scores, after: Scores) -> Comparison:
    """Raises ValueError where the two have no question in common."""
    old = {sample.id: sample for sample in before.samples}
    new = {sample.id: sample for sample in after.samples}
    common = [sample.id for sample in before.samples if sample.id in new]
    if not common:
        raise ValueError(f"{before.task}: the runs have no question in common: nothing to compare")
    sides = [old[name] for name in common], [new[name] for name in common]
    metric, values, interval = _difference(before, after, *sides)
    pairs = list(zip(*sides, strict=True))
    return Comparison(
        before.task,
        metric,
        len(common),
        len(old.keys() ^ new.keys()),
        *values,
        interval,
        gained=[a.id for a, b in pairs if b.score > a.score],
        lost=[a.id for a, b in pairs if b.score < a.score],
        reworded=[a.id for a, b in pairs if b.score == a.score and a.raw != b.raw],
    )


def _difference(
    before: Scores, after: Scores, old: Sequence[Sample], new: Sequence[Sample]
) -> tuple[str, tuple[float, float], tuple[float, float]]:
    """The metric's name, its two values on the common samples `old` and `new`, and the interval of the difference.

    The benchmark's own metric, where both runs' samples give back their scores; else the mean of the samples' scores
    (ScienceQA scored on all questions: samples do not tell which have an image; scores of different protocols).
    """
    name, (units, metric) = before.metric, _units_of(before.task, before.protocol)
    own = (
        before.protocol == after.protocol
        and [sample.category for sample in old] == [sample.category for sample in new]
        and any(units(old).values())
        and all(abs(_value(units(s.samples), metric) - s.value) < 0.01 for s in (before, after))
    )
    if not own:
        name, (units, metric) = "mean sample score", _EACH
    one, two = units(old), units(new)
    strata = [
        np.array([values + two[stratum][unit] for unit, values in members.items()], float)
        for stratum, members in one.items()
    ]
    half = strata[0].shape[1] // 2
    interval = bootstrap_interval(
        strata,
        lambda means: metric([m[:, half:] for m in means]) - metric([m[:, :half] for m in means]),
    )
    return name, (_value(one, metric), _value(two, metric)), interval


def _value(units: Units, metric: Metric) -> float:
    means = [np.array(list(members.values()), float).mean(0)[None] for members in units.values()]
    return float(metric(means)[0])


def _units_of(task: str, protocol: str) -> tuple[Callable[[Sequence[Sample]], Units], Metric]:
    """How a benchmark's metric is made of units: single samples, but for those named here."""
    if task == "pope":
        pooled = protocol != "official"
        return lambda samples: _verdicts(samples, pooled), _mean_f1
    if task == "mme":
        return _picture_pairs, lambda means: 100 * np.sum([m.sum(1) for m in means], axis=0)
    if task == "mmbench":
        return _circles, _percent
    return _EACH


def _percent(means: list[Array]) -> Array:
    return 100 * means[0][:, 0]


def _each(samples: Sequence[Sample]) -> Units:
    return {"all": {sample.id: [sample.score] for sample in samples}}


_EACH: tuple[Callable[[Sequence[Sample]], Units], Metric] = (_each, _percent)


def _verdicts(samples: Sequence[Sample], pooled: bool) -> Units:
    """POPE: true positive, false positive, false negative of each answer, by category."""
    kinds = (("yes", "yes"), ("yes", "no"), ("no", "yes"))
    units: Units = {}
    for s in samples:
        stratum = units.setdefault("all" if pooled else s.category, {})
        stratum[s.id] = [float((s.parsed, s.gold) == kind) for kind in kinds]
    return units


def _mean_f1(means: list[Array]) -> Array:
    f1 = [2 * m[:, 0] / np.maximum(2 * m[:, 0] + m[:, 1] + m[:, 2], 1e-12) for m in means]
    return 100 * np.mean(f1, axis=0)


def _picture_pairs(samples: Sequence[Sample]) -> Units:
    """MME: the accuracy and the both-right of each picture's two questions, by perception subtask."""
    pictures: dict[tuple[str, str], list[float]] = {}
    for s in samples:
        if s.category in PERCEPTION:
            pictures.setdefault((s.category, s.id.rpartition("#")[0]), []).append(s.score)
    units: Units = {}
    for (subtask, picture), scores in pictures.items():
        if len(scores) == 2:
            units.setdefault(subtask, {})[picture] = [sum(scores) / 2, scores[0] * scores[1]]
    return units


def _circles(samples: Sequence[Sample]) -> Units:
    """MMBench: whether every rotation of a question is right."""
    circles: dict[str, list[float]] = {}
    for s in samples:
        circles.setdefault(str(int(s.id) % ROTATION), [1.0])[0] *= s.score
    return {"all": circles}
