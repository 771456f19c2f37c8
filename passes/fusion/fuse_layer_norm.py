"""LayerNormalization as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dim, Dims
from passes.editing import Editor
from passes.fusion.folded_norm import FoldedNorm, folded_norm
from passes.fusion.norm_pattern import (
    ArithmeticNorm,
    arithmetic_norm,
    fitted,
    fixed_tail,
    has_tail,
    narrowed,
    next_with,
)
from passes.matching import constant_array, dims_of, first_shared, is_op, opset_of, raised_rank
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_LAYER_NORM = 17


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Raise (x - mean) / sqrt(variance + epsilon) * scale + bias to LayerNormalization.

    | form | as |
    |---|---|
    | the square | d * d, d ** 2 |
    | the division | by sqrt(v), times 1 / sqrt(v), sqrt(1 / v) or v ** -0.5; Reciprocal or 1 / v |
    | the scale folded into the inverse root | (x - mean) * (scale / root), x * (scale / root) + (bias - mean * ...) |
    | the variance in these | also mean(x ** 2) - mean ** 2, kept at 0 or more |
    | scale, bias | of the normalized axes' shape, a constant also with axes of 1 before it; ones where there is none |
    | float16 or bfloat16, cast to float32 and back before the scale | one node that computes in float32 |
    | the last axes | LayerNormalization |
    | axis 1 of more (ConvNeXt's channels first) | Transpose, LayerNormalization, Transpose |

    Refuses when an inner value has another reader, a constant adds axes or the normalized axes are not of fixed length.
    A variance divided by N - 1, or an epsilon added to the root, is something else. mean(x ** 2) - mean ** 2 loses its
    digits where the mean is far larger than the deviation, to the point of a negative variance and NaN; the operator
    does not, so there the outputs differ, for the better.
    """

    name: ClassVar[str] = "fuse-layer-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Div", "Mul", "Add"):
                    continue
                match = arithmetic_norm(node, facts)
                folded = folded_norm(node, facts) if match is None else None
                if match is None and folded is None:
                    continue
                if opset_of(model) < OPSET_OF_LAYER_NORM:
                    recorder.refuse(node, f"LayerNormalization needs opset 17, the model has {opset_of(model)}")
                    continue
                if match is not None:
                    _fuse(node, match, facts, recorder, editor)
                elif folded is not None:
                    _fuse_folded(node, folded, facts, recorder, editor)
        return recorder.result()


def _fuse(node: ir.Node, match: ArithmeticNorm, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    value, last = match.value, node
    shape = facts.shape(value)
    rank = 0 if shape is None else len(shape)
    is_last = match.axes == tuple(range(-len(match.axes), 0))
    if not is_last and (len(match.axes) > 1 or match.axes[0] + rank != 1):
        return  # over all places of a picture, or another axis: not this norm
    axis = match.axes[0]
    tail = fixed_tail(shape, axis) if is_last else (shape or ())[1:2]
    reason = first_shared(match.nodes, node)
    if not reason and shape is not None:
        reason = raised_rank((*match.nodes, node), value, rank=rank)
    casts = narrowed(value, node)
    if casts is not None:
        value, last = casts.value, casts.last
    if not reason and (tail is None or value.dtype is None or any(dim is None or dim.fixed is None for dim in tail)):
        reason = "the normalized axes are not of fixed length"
    if reason or tail is None or value.dtype is None:
        recorder.refuse(node, reason)
        return
    wanted = tail if is_last else (*tail, *(Dim(1),) * (rank - 2))
    lengths = tuple(dim.fixed or 0 for dim in tail if dim is not None)
    scale, bias = None, None
    scaled = _next(last, "Mul", wanted, rank, facts, is_constant=not is_last)
    if scaled is not None:
        last, scale = scaled
        shifted = _next(last, "Add", wanted, rank, facts, is_constant=not is_last)
        if shifted is not None:
            last, bias = shifted
    if not recorder.may_apply(node, "last axes" if is_last else "channels first"):
        return
    output = last.outputs[0]
    if scale is None:
        scale = editor.constant(np.ones(lengths, dtype=value.dtype.numpy()), f"{output.name}_scale")
    weights = [fitted(one, lengths, editor) for one in (scale, bias) if one is not None]
    attributes = {"axis": axis if is_last else -1, "epsilon": match.epsilon}
    if is_last:
        new = editor.insert(
            last,
            "LayerNormalization",
            [value, *weights],
            name=str(output.name),
            attributes=attributes,
            like=output,
        )
    else:
        new = _channels_first(value, weights, attributes, last, rank, editor)
    editor.take_over(output, new)


def _next(
    last: ir.Node, op_type: str, wanted: Dims, rank: int, facts: ShapeFacts, *, is_constant: bool
) -> tuple[ir.Node, ir.Value] | None:
    found = next_with(last.outputs[0], op_type, wanted, rank, facts)
    return None if found is None or (is_constant and constant_array(found[1]) is None) else found


def _channels_first(
    value: ir.Value, weights: list[ir.Value], attributes: dict[str, Any], last: ir.Node, rank: int, editor: Editor
) -> ir.Value:
    """Return the norm of axis 1, with that axis moved to the end and back."""
    output = last.outputs[0]
    back = (0, rank - 1, *range(1, rank - 1))
    to_end = (0, *range(2, rank), 1)
    dims = dims_of(output)
    shape = None if dims is None else [dims[axis] for axis in to_end]
    name = str(output.name)
    moved = editor.insert(
        last, "Transpose", [value], name=f"{name}_last", attributes={"perm": to_end}, like=output, shape=shape
    )
    norm = editor.insert(
        last, "LayerNormalization", [moved, *weights], name=f"{name}_norm", attributes=attributes, like=moved
    )
    return editor.insert(last, "Transpose", [norm], name=name, attributes={"perm": back}, like=output)


def _fuse_folded(node: ir.Node, match: FoldedNorm, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    value, last, bias, shape = match.value, node, match.bias, facts.shape(match.value)
    if match.axes != tuple(range(-len(match.axes), 0)):
        return
    tail = fixed_tail(shape, match.axes[0])
    reason = first_shared(match.nodes, node)
    if not reason and shape is not None:
        reason = raised_rank((*match.nodes, node), value, rank=len(shape))
    if reason or tail is None or shape is None or value.dtype is None:
        recorder.refuse(node, reason or "the normalized axes are not of fixed length")
        return
    for weight in (match.scale, bias):
        if weight is not None and not has_tail(weight, tail, len(shape), facts):
            recorder.refuse(node, f"'{weight.name}' does not have the shape of the normalized axes")
            return
    if bias is None:
        shifted = next_with(node.outputs[0], "Add", tail, len(shape), facts)
        last, bias = (node, None) if shifted is None else shifted
    if not recorder.may_apply(node, "folded scale"):
        return
    output, lengths = last.outputs[0], tuple([dim.fixed or 0 for dim in tail if dim is not None])
    scale = match.scale or editor.constant(np.ones(lengths, value.dtype.numpy()), f"{output.name}_scale")
    weights = [fitted(one, lengths, editor) for one in (scale, bias) if one is not None]
    attributes = {"axis": match.axes[0], "epsilon": match.epsilon}
    new = editor.insert(
        last, "LayerNormalization", [value, *weights], name=str(output.name), attributes=attributes, like=output
    )
    editor.take_over(output, new)
