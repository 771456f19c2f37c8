"""LayerNormalization as one operator."""

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
from passes.matching import first_shared, is_op, opset_of, producer_of, raised_rank
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

OPSET_OF_LAYER_NORM = 17


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """Raise (x - mean) / sqrt(variance + epsilon) * scale + bias to LayerNormalization.

    mean and variance are taken over the last axes; scale and bias have exactly the shape of those. Where there is no
    scale, one of ones is made. Refuses when an inner value has another reader, a constant adds axes or the normalized
    axes are not of fixed length.
    """

    name: ClassVar[str] = "fuse-layer-norm"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Div", "Mul"):
                    continue
                match = _match(node, facts)
                if match is None:
                    continue
                if opset_of(model) < OPSET_OF_LAYER_NORM:
                    recorder.refuse(node, f"LayerNormalization needs opset 17, the model has {opset_of(model)}")
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
    if found is None:
        return None
    centred, root, inverse_nodes = found
    under = root_of_mean_square(root)
    if under is None:
        return None
    variance, epsilon, root_nodes = under
    mean_square = producer_of(variance, "ReduceMean")
    axis = mean_over_trailing_axes(mean_square, facts)
    if mean_square is None or axis is None:
        return None
    square = square_of(mean_square.inputs[0])
    subtract = producer_of(centred, "Sub")
    if square is None or subtract is None or subtract.inputs[0] is None:
        return None
    again = producer_of(square[0], "Sub")
    same = square[0] is centred or (again is not None and tuple(again.inputs) == tuple(subtract.inputs))
    mean = producer_of(subtract.inputs[1], "ReduceMean")
    if not same or again is None or mean is None or mean.inputs[0] is not subtract.inputs[0]:
        return None
    if mean_over_trailing_axes(mean, facts) != axis:
        return None
    inner = dict.fromkeys((mean, subtract, again, *square[1], mean_square, *root_nodes, *inverse_nodes))
    return _Match(subtract.inputs[0], axis, epsilon, tuple(inner))


def _fuse(node: ir.Node, match: _Match, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    shape = facts.shape(match.value)
    tail = fixed_tail(shape, match.axis)
    reason = first_shared(match.nodes, node)
    if not reason and shape is not None:
        reason = raised_rank((*match.nodes, node), match.value, rank=len(shape))
    dtype = match.value.dtype
    if reason or tail is None or dtype is None:
        recorder.refuse(node, reason or "the normalized axes are not of fixed length")
        return
    last, scale, bias = node, None, None
    scaled = next_with(node.outputs[0], "Mul", tail, facts)
    if scaled is not None:
        last, scale = scaled
        shifted = next_with(last.outputs[0], "Add", tail, facts)
        if shifted is not None:
            last, bias = shifted
    if not recorder.may_apply(node):
        return
    output = last.outputs[0]
    if scale is None:
        lengths = [dim.fixed or 0 for dim in tail if dim is not None]
        scale = editor.constant(np.ones(lengths, dtype=dtype.numpy()), f"{output.name}_scale")
    new = editor.insert(
        last,
        "LayerNormalization",
        [match.value, scale, *([] if bias is None else [bias])],
        name=str(output.name),
        attributes={"axis": match.axis, "epsilon": match.epsilon},
        like=output,
    )
    editor.take_over(output, new)
