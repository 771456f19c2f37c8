from __future__ import annotations

import numpy as np
import pytest

from passes.line_padding import PaddedLine, taps_on_elements


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2), (2, 3)])
def test_taps_are_counted_as_by_hand(stride: int, dilation: int) -> None:
    length, size, before, after = 11, 4, 5, 3
    count = (length + before + after - dilation * (size - 1) - 1) // stride + 1
    places = np.arange(count)[:, None] * stride - before + np.arange(size) * dilation
    expected = ((places >= 0) & (places < length)).sum(axis=1)
    line = PaddedLine(2, length, before, after, size, stride, dilation)
    np.testing.assert_array_equal(taps_on_elements(line), expected)
