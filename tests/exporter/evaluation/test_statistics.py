from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.evaluation.statistics import (
    FEWEST_ROUNDS,
    LEAST_MARGIN,
    NO_DIFFERENCE,
    Interval,
    conclude,
    interval_rank,
    median_interval,
    noise_floor,
    ratio_interval,
)

TIMES = st.floats(1e-3, 1e4)


def test_the_rank_is_that_of_the_binomial_tables():
    # Two-sided 95% ranks of the sign test, as tables of it print them.
    assert {n: interval_rank(n) for n in (5, 6, 8, 9, 12, 20, 25, 50, 100)} == {
        5: 0, 6: 1, 8: 1, 9: 2, 12: 3, 20: 6, 25: 8, 50: 18, 100: 40,
    }  # fmt: skip
    assert interval_rank(FEWEST_ROUNDS) == 1
    assert interval_rank(FEWEST_ROUNDS - 1) == 0
    assert interval_rank(5000) > 2400


@pytest.mark.parametrize("draw", ["lognormal", "exponential", "standard_cauchy"])
def test_the_interval_covers_the_median_as_often_as_it_says(draw):
    rng = np.random.default_rng(1)
    sample = {
        "lognormal": lambda n: rng.lognormal(0, 1, n),
        "exponential": lambda n: rng.exponential(1 / math.log(2), n),
    }
    draws = sample.get(draw, lambda n: rng.standard_cauchy(n) + 1)
    inside = sum(interval.low <= 1 <= interval.high for interval in (median_interval(draws(25)) for _ in range(1500)))
    assert inside / 1500 > 0.94


@given(st.lists(TIMES, min_size=1, max_size=60))
def test_the_interval_encloses_the_median_and_stays_inside_the_data(values):
    interval = median_interval(values)
    assert interval.median == pytest.approx(float(np.median(values)))
    assert interval.low <= interval.median <= interval.high
    if len(values) >= FEWEST_ROUNDS:
        assert min(values) <= interval.low
        assert interval.high <= max(values)
    else:
        assert (interval.low, interval.high) == (-math.inf, math.inf)


@given(st.lists(TIMES, min_size=6, max_size=40), st.floats(0.01, 100))
def test_scaling_and_order_do_not_matter(values, factor):
    interval = median_interval(values)
    scaled = median_interval([value * factor for value in reversed(values)])
    assert scaled.low == pytest.approx(interval.low * factor)
    assert scaled.high == pytest.approx(interval.high * factor)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=6, max_size=40))
def test_exchanging_the_sides_exchanges_the_conclusion(pairs):
    ours, theirs = zip(*pairs, strict=True)
    opposite = {"faster": "slower", "slower": "faster", NO_DIFFERENCE: NO_DIFFERENCE}
    assert conclude(ratio_interval(theirs, ours), 0.02) == opposite[conclude(ratio_interval(ours, theirs), 0.02)]


@given(st.lists(TIMES, max_size=60))
def test_something_is_never_faster_than_itself(values):
    assert conclude(ratio_interval(values, values), LEAST_MARGIN) == NO_DIFFERENCE


def test_pairs_must_match():
    with pytest.raises(ValueError, match="zip"):
        ratio_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("low", "high", "floor", "expected"),
    [
        (1.03, 1.2, 0.02, "faster"),
        (1.01, 1.2, 0.02, NO_DIFFERENCE),
        (1.03, 1.2, 0.05, NO_DIFFERENCE),
        (0.5, 0.97, 0.02, "slower"),
        (0.5, 0.99, 0.02, NO_DIFFERENCE),
        (0.5, 2.0, 0.02, NO_DIFFERENCE),
        (-math.inf, math.inf, 0.02, NO_DIFFERENCE),
        (10.0, 20.0, math.inf, NO_DIFFERENCE),
    ],
)
def test_only_an_interval_clear_of_the_noise_concludes(low, high, floor, expected):
    assert conclude(Interval(1.0, low, high), floor) == expected


def test_the_noise_floor_grows_with_what_a_thing_differs_from_itself():
    rng = np.random.default_rng(0)
    quiet = noise_floor(*(1 + 0.001 * rng.normal(size=(2, 40))))
    loud = noise_floor(*(1 + 0.2 * rng.normal(size=(2, 40))))
    assert quiet == LEAST_MARGIN
    assert loud > 0.04
    assert noise_floor([1.0], [1.0]) == math.inf
    assert noise_floor([2.0] * 10, [1.0] * 10) == pytest.approx(1.0)
    assert noise_floor([1.0] * 10, [2.0] * 10) == pytest.approx(1.0)
