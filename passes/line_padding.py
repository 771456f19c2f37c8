"""Where ONNX Runtime computes a convolution over a line faster after a Pad than with padding of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.matching import dims_of, integer, integers, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

PAD_NAMES_AXES_SINCE = 18
"""The first opset whose Pad can name its axes; ONNX Runtime puts a Pad that names none back into the Conv."""

_MOST_TAPS = 2.0


@dataclass(frozen=True, slots=True)
class PaddedLine:
    """A Conv over an input [N, C, L, 1] (axis 2) or [N, C, 1, L] (axis 3), and how many elements go around the line."""

    axis: int
    length: int
    before: int
    after: int
    size: int
    stride: int
    dilation: int


def padded_line(conv: ir.Node, source: ir.Value | None, pads: Sequence[int]) -> PaddedLine | None:
    """Return the line that `conv` would read were `source` padded by `pads`; None where the input is no such line."""
    dims, kernel = dims_of(source), dims_of(conv.inputs[1])
    if dims is None or kernel is None or len(dims) != 4 or len(kernel) != 4 or len(pads) != 4 or not any(pads):
        return None
    for place in (0, 1):
        other = 1 - place
        length, size = dims[2 + place], kernel[2 + place]
        single = dims[2 + other] == 1 and kernel[2 + other] == 1 and pads[other] == pads[other + 2] == 0
        if single and isinstance(length, int) and isinstance(size, int):
            stride, dilation = ((integers(conv, name) or (1, 1))[place] for name in ("strides", "dilations"))
            return PaddedLine(2 + place, length, pads[place], pads[place + 2], size, stride, dilation)
    return None


def why_conv_should_pad(conv: ir.Node, source: ir.Value | None, line: PaddedLine) -> str:
    """Return why the Conv should do this padding itself; the empty string where a Pad before it is faster.

    ONNX Runtime's blocked kernels compute the outputs that touch padding one at a time, the others six at a time. Over
    a line with a long kernel that is most of them: Conv [128, 128, 64, 1] over [N, 128, 64, 1] took 2.1 ms with its
    own padding, 1.3 ms after a Pad. On [N, C, 1, L] this holds where half of the outputs touch padding; on
    [N, C, L, 1] always (a kernel of 4 over 256 elements: 1.2 times).
    """
    weight = conv.inputs[1]
    if weight is None or weight.dtype is None or weight.dtype.name != "FLOAT":
        return "it does not compute in float32"
    if integer(conv, "group", 1) != 1:
        return "it has several groups"
    if producer_of(source, "DequantizeLinear") is not None:
        return "its input is dequantized"
    taps = taps_on_elements(line)
    if taps.size == 0 or taps.size * line.size >= _MOST_TAPS * taps.sum():
        return "it would multiply with zeros as often as with elements, or more"
    if line.axis == 3 and 2 * (taps < line.size).sum() < taps.size:
        return "fewer than half of its outputs touch padding"
    return ""


def taps_on_elements(line: PaddedLine) -> np.ndarray:
    """Return for each output along the line how many of the kernel's taps fall on elements, not on padding."""
    padded = line.length + line.before + line.after
    count = max(0, (padded - line.dilation * (line.size - 1) - 1) // line.stride + 1)
    first = np.arange(count) * line.stride - line.before  # where the first tap of each output falls
    skipped = np.clip(-(first // line.dilation), 0, line.size)  # ceil(-first / dilation) taps fall before the line
    reached = np.clip(-((first - line.length) // line.dilation), 0, line.size)  # and so many up to the line's end
    taps: np.ndarray = np.maximum(reached - skipped, 0)
    return taps
