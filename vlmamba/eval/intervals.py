"""95 % intervals by the bootstrap (percentiles; Efron 1979), for any statistic of per-unit means.

Units that look alike are drawn together, as counts of a multinomial: exact, and quick for any number of questions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Callable[[list[NDArray[np.float64]]], NDArray[np.float64]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The middle 95 % of `statistic` over resamples of the units, each stratum by itself.

    `strata` are arrays (units, k); `statistic` maps their resampled means, arrays (resamples, k), to (resamples,).
    Raises ValueError for a stratum without units.
    """
    generator = np.random.default_rng(seed)
    means = []
    for stratum in strata:
        units = np.asarray(stratum, dtype=np.float64)
        if len(units) == 0:
            raise ValueError("an interval needs at least one scored unit in every stratum")
        patterns, counts = np.unique(units, axis=0, return_counts=True)
        drawn = generator.multinomial(len(units), counts / len(units), size=resamples)
        means.append(drawn @ patterns / len(units))
    low, high = np.percentile(statistic(means), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(
    values: Sequence[float], *, scale: float = 100, seed: int = 0
) -> tuple[float, float]:
    """The interval of `scale` times the mean of `values`."""
    units = np.asarray(values, dtype=np.float64)[:, None]
    return bootstrap_interval([units], lambda means: scale * means[0][:, 0], seed=seed)


# Student's 97.5 % quantile for 1, 2, ... degrees of freedom.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
)  # fmt: skip
_NORMAL = 1.960


def repeated_interval(
    strata: Sequence[NDArray[np.float64]], *, scale: float = 100
) -> tuple[float, float]:
    """Mean and half the 95 % interval of `scale` times the mean over strata, of runs repeated with other seeds.

    `strata` are arrays (seeds, questions), of the same seeds: scores, or their differences. Both seeds and questions
    are samples: the half width is the root of the squares of two, of the questions' (normal, from what each scored on
    average over the seeds) and of the seeds' (Student's t, from what each scored on average over the questions). Of a
    single seed the interval covers the questions alone. Raises ValueError for a stratum without scores.
    """
    if any(stratum.size == 0 for stratum in strata) or not strata:
        raise ValueError("an interval needs at least one scored unit in every stratum")
    each = np.mean([stratum.mean(1) for stratum in strata], axis=0)  # (seeds,)
    variances = [
        stratum.mean(0).var(ddof=1) / stratum.shape[1] if stratum.shape[1] > 1 else 0.0
        for stratum in strata
    ]
    squares = _NORMAL**2 * sum(variances) / len(strata) ** 2
    if len(each) > 1:
        student = _STUDENT[min(len(each) - 1, len(_STUDENT)) - 1]
        squares += student**2 * each.var(ddof=1) / len(each)
    return scale * float(each.mean()), scale * float(np.sqrt(squares))
