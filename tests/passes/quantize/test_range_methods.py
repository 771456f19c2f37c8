"""Each range method does what it is for, on data where another one fails."""

from __future__ import annotations

import numpy as np
import pytest

from passes.quantize.histogram import Bins, Histogram
from passes.quantize.range_methods import RANGE_METHODS, RangeMethod, range_from_histogram
from passes.quantize.ranges import ActivationRange
from passes.quantize.rounding_error import ASYMMETRIC_STEPS, SYMMETRIC_STEPS, rounding_error

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.normal(size=100_000).astype(np.float32)
DATA = {
    "normal": NORMAL,
    "half normal": np.abs(NORMAL),
    "laplace": RANDOM.laplace(size=100_000).astype(np.float32),
    "relu": np.maximum(NORMAL, 0),
    "uniform": RANDOM.uniform(-1, 3, size=100_000).astype(np.float32),
    "skewed": RANDOM.gamma(0.3, size=100_000).astype(np.float32) - np.float32(0.05),
    "one outlier": np.concatenate((NORMAL, [300])).astype(np.float32),
    "mostly tiny": np.concatenate((NORMAL * 1e-3, NORMAL[:500])).astype(np.float32),
    "few levels": RANDOM.integers(0, 5, size=20_000).astype(np.float32),
}


def histogram_of(*pieces: np.ndarray) -> Histogram:
    histogram = Histogram()
    for piece in pieces:
        histogram.add(piece)
    return histogram


def found(method: RangeMethod, *pieces: np.ndarray, keeps_outliers: bool = False) -> ActivationRange:
    return range_from_histogram(histogram_of(*pieces), method, keeps_outliers=keeps_outliers)


def rounded(data: np.ndarray, low: float, high: float, steps: int) -> np.ndarray:
    step = (high - low) / steps
    return np.asarray(np.clip(np.rint(data.astype(np.float64) / step) * step, low, high))


def error(data: np.ndarray, covered: ActivationRange) -> float:
    return float(np.square(rounded(data, covered.low, covered.high, ASYMMETRIC_STEPS) - data).sum())


def symmetric_error(data: np.ndarray, covered: ActivationRange) -> float:
    peak = covered.symmetric_peak
    return float(np.square(rounded(data, -peak, peak, SYMMETRIC_STEPS) - data).sum())


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize("name", DATA)
def test_every_range_holds_zero_and_lies_within_what_was_seen(name: str, method: RangeMethod) -> None:
    covered = found(method, DATA[name])
    assert covered.observed_low == DATA[name].min()
    assert covered.observed_high == DATA[name].max()
    assert min(covered.observed_low, 0) <= covered.low <= 0 <= covered.high <= max(covered.observed_high, 0)
    assert 0 < covered.symmetric_peak <= np.abs(DATA[name]).max()


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize("data", [np.zeros(10, np.float32), np.full(10, -3.0, np.float32), np.float32([2.0])])
def test_constant_data_has_a_range(data: np.ndarray, method: RangeMethod) -> None:
    covered = found(method, data)
    assert covered.low == min(float(data[0]), 0) or method == "percentile"
    assert np.isfinite([covered.low, covered.high, covered.symmetric_peak]).all()


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.3, 0.5), (0.05, 0.05)])
def test_the_error_on_the_histogram_is_that_of_the_data(name: str, low: float, high: float) -> None:
    data = DATA[name]
    low, high = low * min(float(data.min()), 0), high * max(float(data.max()), 0)
    estimate = rounding_error(histogram_of(data).bins(), low, high, ASYMMETRIC_STEPS)
    exact = float(np.square(rounded(data, low, high, ASYMMETRIC_STEPS) - data).sum())
    if name != "few levels":  # they do not lie evenly in their bins
        assert estimate == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("name", DATA)
def test_auto_has_the_least_error_of_all_methods(name: str) -> None:
    data = DATA[name]
    chosen = found("auto", data)
    for method in RANGE_METHODS:
        assert error(data, chosen) <= 1.03 * error(data, found(method, data)) + 1e-6
        assert symmetric_error(data, chosen) <= 1.03 * symmetric_error(data, found(method, data)) + 1e-6


def test_no_single_method_is_as_good_as_auto_everywhere() -> None:
    chosen = {name: error(data, found("auto", data)) for name, data in DATA.items()}
    for method in RANGE_METHODS:
        if method != "auto":
            assert any(error(data, found(method, data)) > 1.02 * chosen[name] for name, data in DATA.items()), method


def test_auto_clips_nothing_where_extremes_matter() -> None:
    data = DATA["one outlier"]
    assert found("auto", data).high < 280
    kept = found("auto", data, keeps_outliers=True)
    assert (kept.low, kept.high, kept.magnitude) == (data.min(), 300, 300)


def test_the_moving_average_forgives_one_strange_sample() -> None:
    samples = [RANDOM.normal(size=1000).astype(np.float32) for _ in range(50)]
    strange = [*samples[1:], samples[0] * 100]
    usual, forgiven = found("moving-average", *samples), found("moving-average", *strange)
    assert forgiven.high < 4 * usual.high
    assert found("minmax", *strange).high > 50 * usual.high
    assert forgiven.high == pytest.approx(np.mean([sample.max() for sample in strange]))
    assert found("moving-average", *reversed(strange)).high == pytest.approx(forgiven.high)


def test_entropy_drops_an_outlier_and_keeps_a_uniform_range() -> None:
    clipped = found("entropy", DATA["one outlier"])
    assert 3 < clipped.high < 40
    assert 3 < clipped.symmetric_peak < 40
    whole = found("entropy", DATA["uniform"])
    assert (whole.low, whole.high) == pytest.approx((-1, 3), rel=0.06)


def test_entropy_is_not_min_max_in_disguise() -> None:
    widths = [found("entropy", DATA[name]).high / DATA[name].max() for name in ("normal", "laplace", "half normal")]
    assert min(widths) < 0.95
    assert max(widths) <= 1


def test_entropys_divergence_is_that_of_the_definition() -> None:
    from passes.quantize.entropy import _Divergence

    counts = np.array([3.0, 0, 5, 7, 2, 9, 4, 1])
    bins = Bins(np.arange(9.0), counts)
    found_loss = float(_Divergence(bins)(np.array([0.0]), np.array([6.0]), 2)[0])  # 3 levels of 2 bins; 5 are clipped
    reference = counts[:6].copy()
    reference[5] += counts[6:].sum()
    levels = counts[:6].reshape(3, 2).sum(axis=1)
    filled = (counts[:6] > 0).reshape(3, 2).sum(axis=1)
    spread = np.repeat(levels / filled, 2) * (counts[:6] > 0)
    p, q = reference / reference.sum(), spread / spread.sum()
    seen = p > 0
    assert found_loss == pytest.approx(float((p[seen] * np.log(p[seen] / q[seen])).sum()))


def test_the_percentile_ignores_exact_zeros() -> None:
    data = np.concatenate((np.zeros(100_000, np.float32), DATA["half normal"][:1000]))
    assert found("percentile", data).high > 2


def test_mse_clips_less_when_more_lies_outside() -> None:
    few, many = (np.concatenate((NORMAL, np.full(count, 30, np.float32))) for count in (1, 1000))
    assert found("mse", few).high < 27 < 29 < found("mse", many).high


def test_the_median_magnitude_is_exact_next_to_an_outlier() -> None:
    assert found("mse", DATA["one outlier"]).typical == pytest.approx(float(np.median(np.abs(NORMAL))), rel=0.01)
    assert found("mse", DATA["relu"]).typical == pytest.approx(float(np.median(NORMAL[NORMAL > 0])), rel=0.01)
