"""The streaming histogram: exact, order-free, and blind to masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from passes.quantize.histogram import HALF_BINS, ChannelStatistics, Histogram

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
        assert other.exponent == whole.exponent
        assert (other.counts == whole.counts).all()
        assert (other.zeros, other.low, other.high) == (whole.zeros, whole.low, whole.high)


@given(PIECES)
def test_the_counts_are_those_of_numpy_at_the_final_width(pieces: list[np.ndarray]) -> None:
    data = np.concatenate(pieces).astype(np.float64)
    histogram = histogram_of(pieces)
    edges = np.arange(-HALF_BINS, HALF_BINS + 1) * histogram.width
    expected, _ = np.histogram(data, edges)
    assert (histogram.counts == expected).all()
    assert histogram.total == data.size


@pytest.mark.parametrize("mask", [-3.4e38, 3.4e38, np.inf, -np.inf, np.nan])
def test_masks_are_left_out_and_counted(mask: float) -> None:
    histogram = histogram_of([np.array([0.5, mask, -2.0, mask], np.float32)])
    assert (histogram.low, histogram.high) == (-2.0, 0.5)
    assert (histogram.total, histogram.left_out) == (2, 2)


def test_only_masks_leave_nothing() -> None:
    assert histogram_of([np.full(4, -np.inf, np.float32)]).total == 0


def test_channel_statistics_add_up_over_pieces() -> None:
    data = np.random.default_rng(0).normal(size=(6, 3, 5)).astype(np.float32)
    whole, parts = ChannelStatistics(1), ChannelStatistics(1)
    whole.add(data)
    for piece in (data[:1], data[1:]):
        parts.add(piece)
    one, two = whole.ranges(), parts.ranges()
    assert one is not None
    assert two is not None
    assert one.low == two.low == tuple(data.min(axis=(0, 2)).astype(float))
    assert one.high == two.high
    assert np.allclose(one.mean, two.mean)
    assert np.allclose(one.mean_square, np.square(data).mean(axis=(0, 2)), rtol=1e-5)
    assert one.rows == two.rows == 30
