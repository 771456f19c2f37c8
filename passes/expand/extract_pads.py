"""Padding taken out of convolutions over one line of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import dims_of, has_reference, integer, integers, is_op, opset_of, producer_of, text
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_SINCE = 18  # Pad with axes
_MOST_TAPS = 2.0


@dataclass(frozen=True)
class ExtractPads(Pass):
    """Let a Pad do the padding of a Conv over a line: an input [N, C, L, 1] or [N, C, 1, L].

    ONNX Runtime's blocked kernels compute the elements that touch padding one at a time, the others six at a time. Over
    a line with a long kernel that is most of them: Conv [128, 128, 64, 1] over [N, 128, 64, 1] took 2.1 ms with its
    own padding, 1.3 ms after a Pad. On [N, C, 1, L] this holds where half of the outputs touch padding; on
    [N, C, L, 1] always (a kernel of 4 over 256 elements: 1.2 times). The Pad names its axes, since ONNX Runtime puts a
    Pad without them back into the Conv.

    Refuses a Conv that would multiply with zeros as often as with elements or more, since that takes longer; one of
    several groups or of another type than float32; and one whose input is dequantized. An image is no near match:
    there a Pad costs up to a tenth.
    """

    name: ClassVar[str] = "extract-pads"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if opset_of(model) < _SINCE:
            return recorder.result()
        candidates = [node for graph in model.graphs() for node in graph if _is_padded(node)]
        if not candidates:
            return recorder.result()
        infer_shapes(model)
        editor = Editor(model)
        for node in candidates:
            axis = _line_axis(node)
            if axis is None:
                continue
            if reason := _refusal(node, axis):
                recorder.refuse(node, reason)
            elif recorder.may_apply(node):
                _extract(editor, node, axis)
        return recorder.result()


def _is_padded(node: ir.Node) -> bool:
    if not is_op(node, "Conv") or has_reference(node) or text(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    return any(integers(node, "pads") or ())


def _line_axis(node: ir.Node) -> int | None:
    """Return the spatial axis, 0 or 1, of the line that is padded; None where the input is no such line."""
    dims, kernel = dims_of(node.inputs[0]), dims_of(node.inputs[1])
    pads = integers(node, "pads") or ()
    if dims is None or kernel is None or len(dims) != 4 or len(kernel) != 4 or len(pads) != 4:
        return None
    for axis in (0, 1):
        other = 1 - axis
        single = dims[2 + other] == 1 and kernel[2 + other] == 1 and pads[other] == pads[other + 2] == 0
        if single and isinstance(dims[2 + axis], int) and isinstance(kernel[2 + axis], int):
            return axis
    return None


def _refusal(node: ir.Node, axis: int) -> str:
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None
    assert weight is not None
    if weight.dtype is None or weight.dtype.name != "FLOAT":
        return "it does not compute in float32"
    if integer(node, "group", 1) != 1:
        return "it has several groups"
    if producer_of(source, "DequantizeLinear") is not None:
        return "its input is dequantized"
    taps = _taps_on_elements(node, axis)
    kernel = dims_of(weight)
    assert kernel is not None
    size = kernel[2 + axis]
    assert isinstance(size, int)
    if taps.size == 0 or taps.size * size >= _MOST_TAPS * taps.sum():
        return "it would multiply with zeros as often as with elements, or more"
    if axis == 1 and 2 * (taps < size).sum() < taps.size:
        return "fewer than half of its outputs touch padding"
    return ""


def _taps_on_elements(node: ir.Node, axis: int) -> np.ndarray:
    """Return for each output along the line how many of the kernel's taps fall on elements, not on padding."""
    dims, kernel, pads = dims_of(node.inputs[0]), dims_of(node.inputs[1]), integers(node, "pads")
    assert dims is not None
    assert kernel is not None
    assert pads is not None
    length, size = dims[2 + axis], kernel[2 + axis]
    assert isinstance(length, int)
    assert isinstance(size, int)
    stride, dilation = ((integers(node, name) or (1, 1))[axis] for name in ("strides", "dilations"))
    before, after = pads[axis], pads[axis + 2]
    count = max(0, (length + before + after - dilation * (size - 1) - 1) // stride + 1)
    first = np.arange(count) * stride - before  # where the first tap of each output falls
    skipped = np.clip(-(first // dilation), 0, size)  # ceil(-first / dilation) taps fall before the line
    reached = np.clip(-((first - length) // dilation), 0, size)  # ceil((length - first) / dilation) up to its end
    taps: np.ndarray = np.maximum(reached - skipped, 0)
    return taps


def _extract(editor: Editor, node: ir.Node, axis: int) -> None:
    import onnx_ir as ir

    source = node.inputs[0]
    dims, pads = dims_of(source), integers(node, "pads")
    assert source is not None
    assert dims is not None
    assert pads is not None
    length = dims[2 + axis]
    assert isinstance(length, int)
    shape: Sequence[int | str | None] = [
        length + pads[axis] + pads[axis + 2] if place == 2 + axis else dim for place, dim in enumerate(dims)
    ]
    padding = editor.constant(np.array([pads[axis], pads[axis + 2]], np.int64), f"{source.name}_pads")
    axes = editor.constant(np.array([2 + axis], np.int64), f"{source.name}_pad_axes")
    padded = editor.insert(
        node, "Pad", [source, padding, None, axes], name=f"{source.name}_padded", like=source, shape=shape
    )
    node.replace_input_with(0, padded)
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
