"""Rows: every sample once, none too full, few places left over, and the same rows each time."""

import random

from hypothesis import given
from hypothesis import strategies as st

from vlmamba.data.rows import fill_rows

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@given(LENGTHS, st.integers(50, 200), st.integers(1, 80), st.randoms())
def test_every_sample_lies_in_one_row_that_holds_it(lengths, max_length, window, rng):
    numbers = list(range(len(lengths)))
    rng.shuffle(numbers)
    rows = fill_rows(numbers, lengths, max_length, window)
    assert sorted(k for row in rows for k in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[k] for k in row) <= max_length for row in rows)
    assert rows == fill_rows(numbers, lengths, max_length, window)


@given(LENGTHS, st.integers(50, 200))
def test_of_one_window_no_two_rows_fit_into_one(lengths, max_length):
    loads = [
        sum(lengths[k] for k in row) for row in fill_rows(range(len(lengths)), lengths, max_length)
    ]
    assert all(a + b > max_length for i, a in enumerate(loads) for b in loads[:i])


@given(st.lists(st.integers(1, 50), min_size=3, max_size=8), st.data())
def test_the_last_two_fill_a_row_as_well_as_any_two_can(lengths, data):
    """With room for the longest and two more, nothing fills it better than what is chosen."""
    *rest, longest = sorted(lengths)
    room = data.draw(st.integers(rest[0], 3 * rest[0] - 1) if rest else st.just(0))
    row = fill_rows(range(len(lengths)), lengths, longest + room)[0]
    choices = [0, *rest, *(a + b for i, a in enumerate(rest) for b in rest[:i])]
    assert sum(lengths[k] for k in row) == longest + max(c for c in choices if c <= room)


def test_little_is_left_of_rows_of_like_samples():
    rng = random.Random(0)
    lengths = [729 + round(rng.lognormvariate(5, 0.6)) for _ in range(6000)]
    lengths = [min(n, 2048) for n in lengths]
    for max_length, least in ((4096, 0.93), (8192, 0.98)):
        rows = fill_rows(range(6000), lengths, max_length)
        assert sum(lengths) / (max_length * len(rows)) > least
