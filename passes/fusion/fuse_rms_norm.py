"""RMSNormalization as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.norm_pattern import (
    fitted,
    fixed_tail,
    mean_and_epsilon,
    mean_over_trailing_axes,
    narrowed,
    next_with,
    normalized,
    square_of,
)
from passes.matching import first_shared, opset_of, producer_of, raised_rank
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_RMS_NORM = 23


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Raise x / sqrt(mean(x ** 2) + epsilon) * scale to RMSNormalization.

    | form | as |
    |---|---|
    | the square | x * x, x ** 2 |
    | the division | by sqrt(v), times 1 / sqrt(v), sqrt(1 / v) or v ** -0.5; Reciprocal or 1 / v |
    | the scale | of the normalized axes' shape, a constant also with axes of 1 before it; ones where there is none |
    | float16 or bfloat16, cast to float32 and back before the scale | one node that computes in float32 |

    The mean is taken over the last axes. Refuses when an inner value has another reader, a constant adds axes or the
    normalized axes are not of fixed length. A root of the mean to which epsilon is added afterwards is something else.
    """

    name: ClassVar[str] = "fuse-rms-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                match = _match(node, facts) if node.graph is graph else None
                if match is None:
                    continue
                if opset_of(model) < OPSET_OF_RMS_NORM:
                    recorder.refuse(node, f"RMSNormalization needs opset 23, the model has {opset_of(model)}")
                    continue
                _fuse(node, match, facts, recorder, editor)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    value: ir.Value
    axis: int
    epsilon: float
    nodes: tuple[ir.Node, ...]


def _match(node: ir.Node, facts: ShapeFacts) -> _Match | None:
    found = normalized(node)
    under = None if found is None else mean_and_epsilon(found[1])
    if found is None or under is None:
        return None
    mean = producer_of(under[0], "ReduceMean")
    square = None if mean is None else square_of(mean.inputs[0])
    axis = mean_over_trailing_axes(mean, facts)
    if mean is None or square is None or square[0] is not found[0] or axis is None:
        return None
    return _Match(found[0], axis, under[1], (*square[1], mean, *under[2], *found[2]))


def _fuse(node: ir.Node, match: _Match, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    value, last = match.value, node
    shape = facts.shape(value)
    tail = fixed_tail(shape, match.axis)
    reason = first_shared(match.nodes, node)
    if not reason and shape is not None:
        reason = raised_rank((*match.nodes, node), value, rank=len(shape))
    casts = narrowed(value, node)
    if casts is not None:
        value, last = casts.value, casts.last
    if reason or tail is None or shape is None or value.dtype is None:
        recorder.refuse(node, reason or "the normalized axes are not of fixed length")
        return
    scaled = next_with(last.outputs[0], "Mul", tail, len(shape), facts)
    if not recorder.may_apply(node, "plain" if casts is None else "cast"):
        return
    lengths = tuple(dim.fixed or 0 for dim in tail if dim is not None)
    if scaled is None:
        scale = editor.constant(np.ones(lengths, dtype=value.dtype.numpy()), f"{last.outputs[0].name}_scale")
    else:
        last, scale = scaled[0], fitted(scaled[1], lengths, editor)
    output = last.outputs[0]
    attributes = {"axis": match.axis, "epsilon": match.epsilon}
    new = editor.insert(
        last, "RMSNormalization", [value, scale], name=str(output.name), attributes=attributes, like=output
    )
    editor.take_over(output, new)
