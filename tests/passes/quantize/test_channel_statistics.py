"""Statistics by channel are those of numpy, whatever the layout and the pieces."""

from __future__ import annotations

import numpy as np
import pytest

from passes.quantize.channel_statistics import ChannelStatistics


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((6, 3, 5), 1), ((2, 3, 300, 300), 1), ((700, 200), -1), ((4, 5, 7), -1), ((2, 1, 9), 1), ((3, 70_000), -1)],
)
def test_channels_add_up_over_pieces(shape: tuple[int, ...], axis: int) -> None:
    data = (np.random.default_rng(0).normal(size=shape) + 1).astype(np.float32)
    others = tuple(index for index in range(data.ndim) if index != axis % data.ndim)
    whole, parts = ChannelStatistics(axis), ChannelStatistics(axis)
    whole.add(data)
    for piece in (data[:1], data[1:], data[:0]):
        parts.add(piece)
    for found in (whole.ranges(), parts.ranges()):
        assert found is not None
        assert found.low == tuple(data.min(axis=others).astype(float))
        assert found.high == tuple(data.max(axis=others).astype(float))
        assert np.allclose(found.mean, data.mean(axis=others, dtype=np.float64), rtol=1e-4, atol=1e-5)
        assert np.allclose(found.mean_square, np.square(data, dtype=np.float64).mean(axis=others), rtol=1e-4)
        assert found.rows == data.size // shape[axis]


@pytest.mark.parametrize("mask", [-3.4e38, np.inf, np.nan])
def test_a_masked_entry_counts_as_zero(mask: float) -> None:
    found = ChannelStatistics(-1)
    found.add(np.array([[1.0, 2.0], [mask, 4.0]], np.float32))
    ranges = found.ranges()
    assert ranges is not None
    assert (ranges.low, ranges.high) == ((0.0, 2.0), (1.0, 4.0))
    assert ranges.mean == (0.5, 3.0)


def test_nothing_seen_is_none() -> None:
    assert ChannelStatistics(1).ranges() is None
