"""The shift of a product's mean that rounding its weights causes, to be taken off its bias (arXiv 1906.04721, 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from passes.quantize.ranges import ChannelRanges
    from passes.quantize.weighted import Weight


def mean_shift(
    weight: Weight, rounding: npt.NDArray[np.floating], channels: ChannelRanges | None
) -> npt.NDArray[np.float64] | None:
    """Return how far the mean of each output channel moves when the weight changes by `rounding`.

    `rounding` has the weight's shape; `channels` are those of the operator's input. None where the operator's layout
    is not a Conv's or a Gemm's, or nothing was seen. Padding is counted as if it held the mean.
    """
    if channels is None:
        return None
    mean = np.asarray(channels.mean)
    node = weight.node
    if node.op_type == "Gemm" and not node.attributes.get_int("transA", 0):
        rows = rounding.T if node.attributes.get_int("transB", 0) else rounding
        return np.asarray(mean @ rows, np.float64) if rows.shape[0] == mean.size else None
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        taps = rounding.reshape(rounding.shape[0], rounding.shape[1], -1).sum(axis=2, dtype=np.float64)  # [O, I / g]
        if mean.size != groups * taps.shape[1]:
            return None
        grouped = taps.reshape(groups, -1, taps.shape[1])  # [g, O / g, I / g]
        return np.asarray(np.einsum("goi,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1), np.float64)
    return None
