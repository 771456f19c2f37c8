"""The Pad that stays before a convolution over a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.cleanup.local_rules import RuleScope
from passes.cleanup.pad_amounts import Amounts, spatial_pads, total_pads
from passes.dimensions import dim_from
from passes.line_padding import PAD_NAMES_AXES_SINCE, padded_line, why_conv_should_pad
from passes.matching import dims_of, input_at, integers, is_op, opset_of

if TYPE_CHECKING:
    import onnx_ir as ir


def is_faster_after_pad(pad: ir.Node, reader: ir.Node, amounts: Amounts, scope: RuleScope) -> bool:
    """Return whether `reader` is a Conv over a line that is faster when a Pad does all of its padding."""
    if not is_op(reader, "Conv") or opset_of(scope.model) < PAD_NAMES_AXES_SINCE:
        return False
    source = pad.inputs[0]
    line = padded_line(reader, source, total_pads(reader, amounts))
    return line is not None and not why_conv_should_pad(reader, source, line)


def keep_before_line(pad: ir.Node, amounts: Amounts, scope: RuleScope) -> bool:
    """Let the Pad name its axis and take over its only reader's own padding; returns whether that changed anything."""
    import numpy as np
    import onnx_ir as ir

    output, readers = pad.outputs[0], pad.outputs[0].consumers()
    alone = readers[0] if len(readers) == 1 else None
    takes_over = alone is not None and any(integers(alone, "pads") or ())
    if input_at(pad, 3) is not None and not takes_over:
        scope.recorder.refuse(pad, "ONNX Runtime is faster when a Pad does a long kernel's padding", "pad-into-reader")
        return False
    if not scope.recorder.may_apply(pad, "pad-names-axes"):
        return False
    spatial = spatial_pads(amounts) if alone is None else total_pads(alone, amounts)
    axis = 2 if spatial[0] or spatial[2] else 3
    before, after = spatial[axis - 2], spatial[axis]
    source, dims = pad.inputs[0], dims_of(pad.inputs[0])
    assert source is not None
    assert dims is not None
    padded = [before + dim + after if place == axis and isinstance(dim, int) else dim for place, dim in enumerate(dims)]
    pad.resize_inputs(4)
    pad.replace_input_with(1, scope.editor.constant(np.array([before, after], np.int64), f"{source.name}_pads"))
    pad.replace_input_with(3, scope.editor.constant(np.array([axis], np.int64), f"{source.name}_pad_axes"))
    output.shape = ir.Shape(padded)
    scope.facts.shapes[output] = tuple(dim_from(dim) for dim in padded)
    if alone is not None and takes_over:
        alone.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    return True
