"""Bootstrap intervals: against the normal approximation, against a naive bootstrap, and their edges."""

import numpy as np
import pytest

from vlmamba.eval.intervals import bootstrap_interval, mean_interval


def test_a_mean_has_its_textbook_interval() -> None:
    values = [1.0] * 300 + [0.0] * 700
    low, high = mean_interval(values)
    half = 196 * (0.3 * 0.7 / 1000) ** 0.5
    assert (low, high) == pytest.approx((30 - half, 30 + half), abs=0.15)


def test_the_seed_decides() -> None:
    values = [0.0, 0.3, 0.6, 1.0] * 20
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_drawing_counts_equals_drawing_units() -> None:
    generator = np.random.default_rng(0)
    strata = [generator.integers(0, 2, (40, 2)), generator.integers(0, 3, (25, 2))]

    def ratio(means: list[np.ndarray]) -> np.ndarray:
        return sum(m[:, 0] / (m[:, 1] + 1) for m in means)

    naive = []
    for _ in range(10_000):
        drawn = [s[generator.integers(0, len(s), len(s))].mean(0)[None] for s in strata]
        naive.append(ratio(drawn)[0])
    expected = np.percentile(naive, [2.5, 97.5])
    assert bootstrap_interval(strata, ratio) == pytest.approx(tuple(expected), abs=0.02)


def test_one_unit_has_no_width_and_none_has_no_interval() -> None:
    assert mean_interval([0.6]) == pytest.approx((60, 60))
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
