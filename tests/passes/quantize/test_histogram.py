"""The streaming histogram: exact, order-free, fair to every channel, and blind to masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.quantize.histogram import COUNTED_ENTRIES, OCTAVES, Histogram

FLOATS = st.floats(-1e6, 1e6, width=32).map(lambda value: value if abs(value) > 1e-20 else 0.0)
PIECES = st.lists(arrays(np.float32, st.integers(1, 40), elements=FLOATS), min_size=1, max_size=6)


def histogram_of(pieces: list[np.ndarray]) -> Histogram:
    histogram = Histogram()
    for piece in pieces:
        histogram.add(piece)
    return histogram


@given(PIECES, st.randoms(use_true_random=False))
def test_pieces_in_any_order_give_the_histogram_of_all_the_data(pieces: list[np.ndarray], random: object) -> None:
    whole = histogram_of([np.concatenate(pieces)])
    shuffled = list(pieces)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for other in (histogram_of(pieces), histogram_of(shuffled)):
        assert (other.bins().edges == whole.bins().edges).all()
        assert (other.bins().counts == whole.bins().counts).all()
        assert (other.zeros, other.low, other.high, other.total) == (whole.zeros, whole.low, whole.high, whole.total)


@given(PIECES)
def test_the_counts_are_those_of_numpy(pieces: list[np.ndarray]) -> None:
    data = np.concatenate(pieces)
    histogram = histogram_of(pieces)
    bins = histogram.bins()
    half = len(bins.counts) // 2
    edges = bins.edges[half + 1 :]
    for side, counts in ((data, bins.counts[half + 1 :]), (-data, bins.counts[:half][::-1])):
        expected, _ = np.histogram(side[side >= edges[0]].astype(np.float64), edges)
        assert (counts == expected).all()
    assert histogram.total == data.size
    assert histogram.zeros == np.count_nonzero(data == 0)
    assert bins.counts.sum() == data.size - histogram.zeros


def test_an_outlier_does_not_coarsen_the_rest() -> None:
    data = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    alone, next_to_it = histogram_of([data]), histogram_of([data, np.array([2.0**12], np.float32)])
    bins = next_to_it.bins()
    typical = (bins.centers > 0.5) & (bins.centers < 1)
    assert np.diff(bins.edges)[typical].max() < 1 / 256
    assert bins.counts[typical].sum() == ((data > 0.5) & (data < 1)).sum()
    assert alone.bins().counts.sum() == 5000


def test_what_is_far_below_the_greatest_shares_the_bin_at_zero() -> None:
    data = np.array([1.0, 2.0 ** -(OCTAVES + 3), -(2.0 ** -(OCTAVES + 5)), 0.0, -0.0], np.float32)
    histogram = histogram_of([data[1:], data[:1]])
    bins = histogram.bins()
    assert bins.counts[len(bins.counts) // 2] == 2
    assert histogram.zeros == 2


@pytest.mark.parametrize("shape", [(1 << 19,), (8, 64, 32, 32), (2048, 256), (1, 96, 112, 112)])
def test_a_part_of_a_large_array_is_counted_fairly_with_its_exact_extremes(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    data = random.normal(size=shape).astype(np.float32)
    data.reshape(shape[0], -1)[:, 1::2] *= 8  # half the entries, always at odd places
    data.reshape(-1)[12_345] = 99.0
    histogram = histogram_of([data, data, data])
    assert (histogram.low, histogram.high) == (data.min(), 99.0)
    assert histogram.total == pytest.approx(3 * data.size, rel=1e-3)
    bins = histogram.bins()
    for bound in (0.5, 1.0, 4.0):
        share = bins.counts[np.abs(bins.centers) < bound].sum() / bins.counts.sum()
        assert share == pytest.approx((np.abs(data) < bound).mean(), abs=0.01)
    assert bins.counts[bins.edges[1:] > 98].sum() >= 3, "the extreme is counted whether or not the part has it"


def test_small_arrays_are_counted_whole() -> None:
    data = np.random.default_rng(2).normal(size=COUNTED_ENTRIES).astype(np.float32)
    assert histogram_of([data]).total == data.size


@pytest.mark.parametrize("mask", [-3.4e38, 3.4e38, np.inf, -np.inf, np.nan])
def test_masks_are_left_out_and_counted(mask: float) -> None:
    histogram = histogram_of([np.array([0.5, mask, -2.0, mask], np.float32)])
    assert (histogram.low, histogram.high) == (-2.0, 0.5)
    assert (histogram.total, histogram.left_out) == (2, 2)


def test_only_masks_leave_nothing() -> None:
    assert histogram_of([np.full(4, -np.inf, np.float32)]).total == 0
