"""Shape arithmetic that is known before the model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.content import Content
from passes.dimensions import Dim, Dims, plain
from passes.editing import Editor, is_dead
from passes.matching import constant_tensor, integer, is_op
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

    from passes.base import Recorder

_SOURCES_TEXT = """
    Add Cast Concat ConstantOfShape Div Equal Gather Identity Mul ReduceProd Reshape Shape Size Slice Squeeze Sub
    Unsqueeze Where
"""
_SOURCES = frozenset(_SOURCES_TEXT.split())


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Replace shape arithmetic by constants, or by the first computation of the same dimensions.

    A tensor whose elements are all known becomes a constant. One that holds the same symbolic dimensions as an earlier
    tensor is replaced by it. The requested shape of a Reshape becomes a constant where each symbolic dimension either
    stays in its place (0) or is the only one left over (-1). Symbolic dimensions are never fixed to a number.
    """

    name: ClassVar[str] = "fold-shapes"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            held: dict[tuple[object, ...], ir.Value] = {}
            for node in list(graph):
                if node.graph is not graph:
                    continue
                if is_op(node, "Reshape"):
                    _fix_reshape(node, facts, recorder, editor)
                if is_op(node, *_SOURCES) and len(node.outputs) == 1:
                    _fold(node, facts, held, recorder, editor)
        return recorder.result()


def _fold(
    node: ir.Node,
    facts: ShapeFacts,
    held: dict[tuple[object, ...], ir.Value],
    recorder: Recorder,
    editor: Editor,
) -> None:
    output = node.outputs[0]
    content = facts.contents.get(output)
    if content is None or output.dtype is None or not output.dtype.is_integer() or None in content.elements:
        return
    if output.is_graph_output():
        if not is_op(node, "Identity"):
            recorder.refuse(node, f"'{output.name}' is an output of the graph")
        return
    if content.fixed is not None:
        if recorder.may_apply(node, "known"):
            array = _array(content, output)
            new = editor.constant(array, f"{output.name}_value")
            output.replace_all_uses_with(new)
            editor.drop(node)
        return
    key = (output.dtype, content.is_scalar, content.elements)
    first = held.get(key)
    if first is not None and first.graph is not None:  # the first may have died since
        if recorder.may_apply(node, "repeated"):
            output.replace_all_uses_with(first)
            editor.drop(node)
        return
    held[key] = _shortened(node, content, facts, recorder, editor) or output


def _array(content: Content, like: ir.Value) -> np.ndarray:
    import numpy as np

    assert content.fixed is not None
    assert like.dtype is not None
    array = np.array(content.fixed, dtype=like.dtype.numpy())
    return array.reshape(()) if content.is_scalar else array


def _shortened(
    node: ir.Node, content: Content, facts: ShapeFacts, recorder: Recorder, editor: Editor
) -> ir.Value | None:
    """Take one dimension straight from the tensor: Shape then Gather or Slice becomes Shape with start and end."""
    import onnx_ir as ir

    output = node.outputs[0]
    if content.is_scalar or len(content.elements) != 1 or not is_op(node, "Gather", "Slice", "Unsqueeze"):
        return None
    if output.dtype != ir.DataType.INT64 or editor.model.opset_imports.get("", 0) < 15:
        return None
    source = node.inputs[0]
    while source is not None and (step := source.producer()) is not None and not is_op(step, "Shape"):
        source = step.inputs[0] if is_op(step, "Gather", "Slice", "Squeeze", "Cast") else None
    shape_node = None if source is None else source.producer()
    if shape_node is None:
        return None
    tensor = shape_node.inputs[0]
    dims = facts.shape(tensor)
    if dims is None or content.elements[0] not in dims or not recorder.may_apply(node, "shape-of-one"):
        return None
    axis = dims.index(content.elements[0])
    new = editor.insert(
        node, "Shape", [tensor], name=f"{output.name}", attributes={"start": axis, "end": axis + 1}, like=output
    )
    facts.contents[new] = content
    facts.shapes[new] = (Dim(1),)
    editor.take_over(output, new)
    return new


def _fix_reshape(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    import numpy as np

    if len(node.inputs) < 2 or constant_tensor(node.inputs[1]) is not None:
        return
    before, wanted = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    if wanted is None or wanted.is_scalar:
        return
    allow_zero = bool(integer(node, "allowzero", 0))
    constant = constant_shape(before, wanted.elements, allow_zero=allow_zero)
    if isinstance(constant, str):
        recorder.refuse(node, constant, "reshape")
        return
    if not recorder.may_apply(node, "reshape"):
        return
    old = node.inputs[1]
    assert old is not None
    node.replace_input_with(1, editor.constant(np.array(constant, dtype=np.int64), f"{node.outputs[0].name}_shape"))
    if allow_zero:
        node.attributes.pop("allowzero")
    producer = old.producer()
    if producer is not None and is_dead(producer):
        editor.drop(producer)


def constant_shape(before: Dims | None, wanted: Dims, *, allow_zero: bool) -> list[int] | str:
    """Return a constant that asks Reshape for `wanted`, by way of 0 and -1; a reason where there is none."""
    result: list[int] = []
    for index, dim in enumerate(wanted):
        here = before[index] if before is not None and index < len(before) else None
        if dim == Dim(0):
            if allow_zero:
                return "it asks for a dimension of length 0"
            result.append(0)
        elif dim is not None and dim.fixed is not None:
            result.append(dim.fixed)
        elif dim is not None and dim == here:
            result.append(0)
        else:
            result.append(-1)
    if result.count(-1) > 1:
        return f"two dimensions of [{', '.join(str(plain(dim)) for dim in wanted)}] are not those of its input"
    return result
