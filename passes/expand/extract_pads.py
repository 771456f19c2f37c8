"""Padding taken out of convolutions over one line of elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.line_padding import PAD_NAMES_AXES_SINCE, PaddedLine, padded_line, why_conv_should_pad
from passes.matching import dims_of, has_reference, integers, is_op, opset_of, text
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class ExtractPads(Pass):
    """Let a Pad do the padding of a Conv over a line: an input [N, C, L, 1] or [N, C, 1, L].

    `passes.line_padding` says where ONNX Runtime is faster so, and why; merge-pads leaves such a Pad where it is. The
    Pad names its axes, since ONNX Runtime puts a Pad without them back into the Conv.

    Refuses a Conv that would multiply with zeros as often as with elements or more, since that takes longer; one of
    several groups or of another type than float32; and one whose input is dequantized. An image is no near match:
    there a Pad made some convolutions up to 25 % slower.
    """

    name: ClassVar[str] = "extract-pads"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        if opset_of(model) < PAD_NAMES_AXES_SINCE:
            return recorder.result()
        candidates = [node for graph in model.graphs() for node in graph if _is_padded(node)]
        if not candidates:
            return recorder.result()
        infer_shapes(model)
        editor = Editor(model)
        for node in candidates:
            line = padded_line(node, node.inputs[0], integers(node, "pads") or ())
            if line is None:
                continue
            if reason := why_conv_should_pad(node, node.inputs[0], line):
                recorder.refuse(node, reason)
            elif recorder.may_apply(node):
                _extract(editor, node, line)
        return recorder.result()


def _is_padded(node: ir.Node) -> bool:
    if not is_op(node, "Conv") or has_reference(node) or text(node, "auto_pad", "NOTSET") != "NOTSET":
        return False
    return any(integers(node, "pads") or ())


def _extract(editor: Editor, node: ir.Node, line: PaddedLine) -> None:
    import onnx_ir as ir

    source = node.inputs[0]
    dims = dims_of(source)
    assert source is not None
    assert dims is not None
    length = line.before + line.length + line.after
    shape: Sequence[int | str | None] = [length if axis == line.axis else dim for axis, dim in enumerate(dims)]
    padding = editor.constant(np.array([line.before, line.after], np.int64), f"{source.name}_pads")
    axes = editor.constant(np.array([line.axis], np.int64), f"{source.name}_pad_axes")
    padded = editor.insert(
        node, "Pad", [source, padding, None, axes], name=f"{source.name}_padded", like=source, shape=shape
    )
    node.replace_input_with(0, padded)
    node.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
