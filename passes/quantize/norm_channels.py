"""What the channels of a norm's output hold, told from its scale and bias alone (after Nagel et al. 2019, 1906.04721).

Each row of a LayerNormalization has mean 0 and variance 1 before scale g and bias b, so channel k lies around b[k] with
deviation |g[k]|: that is the calibration that data-free methods take from batch norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.matching import constant_tensor, input_at, integer, producer_of, rank_of
from passes.quantize.ranges import ActivationRange, ChannelRanges

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.editing import Editor

_NORMS = ("LayerNormalization", "RMSNormalization")

PEAK_DEVIATIONS = 5.0
"""How many deviations from its mean a channel is taken to reach."""

_ROWS = 1 << 30  # the norm holds for every row, so this is as good as any number of samples


def range_from_norm(value: ir.Value) -> ActivationRange | None:
    """Return the estimated range by channel of what a norm over the last axis makes; None for anything else."""
    parts = _parts(value)
    if parts is None:
        return None
    scale, bias = parts
    spread = PEAK_DEVIATIONS * np.abs(scale)
    low, high = np.minimum(bias - spread, 0.0), np.maximum(bias + spread, 0.0)
    channels = ChannelRanges(
        low=tuple(map(float, low)),
        high=tuple(map(float, high)),
        mean=tuple(map(float, bias)),
        mean_square=tuple(map(float, scale**2 + bias**2)),
        rows=_ROWS,
    )
    least, most = float(low.min()), float(high.max())
    return ActivationRange(least, most, least, most, channels=channels)


def divide_norm(value: ir.Value, factors: npt.NDArray[np.float32], editor: Editor) -> bool:
    """Let the norm that makes `value` divide its channels by `factors`; returns whether it could."""
    node = producer_of(value, *_NORMS)
    parts = _parts(value)
    if node is None or parts is None:
        return False
    for index, array in enumerate(parts, start=1):
        if input_at(node, index) is not None:
            divided = np.asarray(array / factors, np.float32)
            node.replace_input_with(index, editor.constant(divided, f"{value.name}_{('scale', 'bias')[index - 1]}"))
    return True


def _parts(value: ir.Value) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Return scale and bias [K] of the norm over the last axis that makes `value`."""
    node = producer_of(value, *_NORMS)
    if node is None or value is not node.outputs[0]:
        return None
    rank, axis = rank_of(value), integer(node, "axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return None
    scale = constant_tensor(input_at(node, 1))
    if scale is None or len(scale.shape) != 1:
        return None
    gain = np.asarray(scale.numpy(), np.float64)
    if input_at(node, 2) is None:
        return gain, np.zeros_like(gain)
    bias = constant_tensor(input_at(node, 2))
    if bias is None or bias.size != gain.size:
        return None
    return gain, np.asarray(bias.numpy(), np.float64).reshape(-1)
