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
