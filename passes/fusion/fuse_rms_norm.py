"""RMSNormalization as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.norm_pattern import (
    fixed_tail,
    mean_over_trailing_axes,
    next_with,
    normalized,
    root_of_mean_square,
    square_of,
)
from passes.matching import first_shared, opset_of, producer_of, raised_rank
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_RMS_NORM = 23


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Raise x / sqrt(mean(x ** 2) + epsilon) * scale to RMSNormalization.

    The mean is taken over the last axes; scale has exactly their shape. Refuses when an inner value has another reader,
    a constant adds axes or there is no such scale.
    """

    name: ClassVar[str] = "fuse-rms-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                found = normalized(node) if node.graph is graph else None
                under = None if found is None else root_of_mean_square(found[1])
                if found is None or under is None:
                    continue
                mean = producer_of(under[0], "ReduceMean")
                square = None if mean is None else square_of(mean.inputs[0])
                axis = mean_over_trailing_axes(mean, facts)
                if mean is None or square is None or square[0] is not found[0] or axis is None:
                    continue
                if opset_of(model) < OPSET_OF_RMS_NORM:
                    recorder.refuse(node, f"RMSNormalization needs opset 23, the model has {opset_of(model)}")
                    continue
                value = found[0]
                shape = facts.shape(value)
                tail = fixed_tail(shape, axis)
                scaled = None if tail is None else next_with(node.outputs[0], "Mul", tail, facts)
                inner = (*square[1], mean, *under[2], *found[2])
                reason = first_shared(inner, node)
                if not reason and shape is not None:
                    reason = raised_rank((*inner, node), value, rank=len(shape))
                if not reason and scaled is None:
                    reason = "no scale of the normalized shape follows"
                if reason or scaled is None:
                    recorder.refuse(node, reason)
                    continue
                if recorder.may_apply(node):
                    last, scale = scaled
                    output = last.outputs[0]
                    attributes = {"axis": axis, "epsilon": under[1]}
                    inputs = [value, scale]
                    new = editor.insert(
                        last, "RMSNormalization", inputs, name=str(output.name), attributes=attributes, like=output
                    )
                    editor.take_over(output, new)
        return recorder.result()
