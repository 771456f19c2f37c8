"""A MatMul that a Split takes apart becomes one MatMul a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.fusion.projection import Projection, projection_of
from passes.matching import constant_array, constant_integers, input_at, integer, integers, is_op, other_readers
from passes.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.shapes import ShapeFacts


@dataclass(frozen=True)
class UnpackProjections(Pass):
    """Compute each part of a Split of x @ W + b by a MatMul of its own: the Split copies what the product wrote.

    The opposite of `pack-qkv`, for runtimes that gain nothing from one large product. W [K, N] and b [N] are constants;
    the parts of W are read when the model is saved, some rows at a time, and are the matrices that were packed before,
    where they were packed in the same run.
    Refuses when the product has another reader than the Split or lies in another graph, or the Split's sizes or axis
    are not known.
    """

    name: ClassVar[str] = "unpack-projections"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is graph and is_op(node, "Split"):
                    _unpack(node, facts, recorder, editor)
        return recorder.result()


def _unpack(node: ir.Node, facts: ShapeFacts, recorder: Recorder, editor: Editor) -> None:
    packed = projection_of(node.inputs[0])
    if packed is None:
        return
    widths = _widths(node, packed, facts)
    reason = _refusal(node, packed, widths, facts)
    if reason:
        recorder.refuse(node, reason)
        return
    if not recorder.may_apply(node):
        return
    start = 0
    for output, width in zip(list(node.outputs), widths, strict=True):
        _write_part(node, packed, output, start, width, editor)
        start += width
    editor.drop(node)


def _refusal(node: ir.Node, packed: Projection, widths: Sequence[int], facts: ShapeFacts) -> str:
    for made, reader in zip(packed.nodes, (*packed.nodes[1:], node), strict=True):
        is_around = made.graph is not node.graph  # in a loop it would be computed at each trip
        reason = f"'{made.outputs[0].name}' is made in another graph" if is_around else ""
        reason = reason or other_readers(made.outputs[0], reader)
        if reason:
            return reason
    weight = facts.shape(packed.weight)
    if weight is None or len(weight) != 2 or weight[1] is None or weight[1].symbols:
        return f"the weight '{packed.weight.name}' is not a matrix"
    if packed.bias is not None and facts.shape(packed.bias) != (weight[1],):
        return f"the bias '{packed.bias.name}' is not of the shape [{weight[1]}]"
    if not widths or min(widths) < 1 or sum(widths) != weight[1].factor:
        return "its sizes, or that it splits the last axis, are not known"
    return ""


def _widths(node: ir.Node, packed: Projection, facts: ShapeFacts) -> Sequence[int]:
    """Return the parts' sizes along the last axis; nothing where they, or that it is the last axis, are not known."""
    shape, axis = facts.shape(packed.output), integer(node, "axis", 0)
    if axis != -1 and (shape is None or axis != len(shape) - 1):
        return ()
    sizes = input_at(node, 1)
    if sizes is not None:
        return constant_integers(sizes) or ()
    before_13 = integers(node, "split")
    if before_13 is not None:
        return before_13
    weight = facts.shape(packed.weight)
    if weight is None or weight[-1] is None or weight[-1].symbols:
        return ()
    whole, count = weight[-1].factor, len(node.outputs)
    part = -(-whole // count)
    return [*[part] * (count - 1), whole - part * (count - 1)]


def _write_part(node: ir.Node, packed: Projection, output: ir.Value, start: int, width: int, editor: Editor) -> None:
    if not output.uses() and not output.is_graph_output():
        return
    name, source = str(output.name), packed.source
    made = editor.insert(
        node,
        "MatMul",
        [source, _columns(packed.weight, start, width, editor)],
        name=f"{name}_product",
        like=output,
    )
    if packed.bias is not None:
        whole = constant_array(packed.bias, max_bytes=1 << 30)
        assert whole is not None
        bias = editor.constant(whole[start : start + width], f"{packed.bias.name}_part")
        made = editor.insert(node, "Add", [made, bias], name=f"{name}_biased", like=made)
    made.type = output.type
    output.replace_all_uses_with(made, replace_graph_outputs=True)
    made.name, output.name = name, None


def _columns(weight: ir.Value, start: int, width: int, editor: Editor) -> ir.Value:
    """Return an initializer that holds the columns start..start+width of `weight`; nothing is read yet."""
    import onnx_ir as ir

    from passes.fusion.joined_tensor import columns_of
    from passes.matching import constant_tensor

    tensor = constant_tensor(weight)
    assert tensor is not None
    name = editor.fresh_name(f"{weight.name}_part")
    part = columns_of(tensor, start, width, name)
    value = ir.Value(name=name, type=ir.TensorType(part.dtype), shape=ir.Shape(part.shape.numpy()), const_value=part)
    editor.model.graph.register_initializer(value)
    return value
