"""One computation of each value."""

from __future__ import annotations

import struct
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import has_reference, is_op, tensor_of_constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

_VARYING = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Dropout"}
)
_COMMUTATIVE = ("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Min", "Mul", "Or", "Xor")
_CONSTANT_BYTES = 65536


@dataclass(frozen=True)
class EliminateCommonSubexpressions(Pass):
    """Compute equal nodes once: the same operator, inputs and attributes; a + b is b + a.

    A node of a branch or loop body is replaced by its equal outside as well. Random operators, nodes with subgraphs and
    operators of unknown domains, which may have side effects, stay.
    Refuses where both results are outputs of the graph, since each keeps its own name.
    """

    name: ClassVar[str] = "eliminate-common-subexpressions"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        _visit(model.graph, ChainMap(), recorder, editor)
        return recorder.result()


_Seen = ChainMap[tuple[object, ...], "ir.Node"]


def _visit(graph: ir.Graph, seen: _Seen, recorder: Recorder, editor: Editor) -> None:
    for node in graph:
        for attribute in node.attributes.values():
            for inner in graphs_of(attribute):
                _visit(inner, seen.new_child(), recorder, editor)
        key = _key(node)
        if key is None:
            continue
        first = seen.setdefault(key, node) if key not in seen else seen[key]
        if first is node:
            continue
        if any(output.is_graph_output() for output in node.outputs):
            recorder.refuse(node, f"'{node.outputs[0].name}' is an output of the graph")
            continue
        if not recorder.may_apply(node, node.op_type):
            continue
        for old, new in zip(node.outputs, first.outputs, strict=True):
            old.replace_all_uses_with(new)
            _keep_shape(new, old)
        editor.drop(node)


def graphs_of(attribute: ir.Attr) -> Sequence[ir.Graph]:
    """Return the subgraphs that an attribute holds."""
    import onnx_ir as ir

    if attribute.is_ref():
        return ()
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else ()


def _keep_shape(kept: ir.Value, gone: ir.Value) -> None:
    if kept.shape is None and gone.shape is not None:
        kept.shape = gone.shape.copy()
    if kept.type is None:
        kept.type = gone.type


def _key(node: ir.Node) -> tuple[object, ...] | None:
    if node.domain not in ("", "ai.onnx.ml", "com.microsoft") or node.op_type in _VARYING or has_reference(node):
        return None
    if node.op_type == "Constant":
        tensor = tensor_of_constant(node)
        if tensor is None or tensor.nbytes > _CONSTANT_BYTES or tensor.dtype.is_string():
            return None
        return "Constant", tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()
    attributes: list[tuple[object, ...]] = []
    for name, attribute in sorted(node.attributes.items()):
        kind = attribute.type.name
        if kind in ("INT", "STRING"):
            attributes.append((name, kind, attribute.value))
        elif kind in ("FLOAT", "FLOATS"):  # by their bits: 0.0 and -0.0 are equal, but do not compute alike
            numbers = (attribute.value,) if kind == "FLOAT" else attribute.value
            attributes.append((name, kind, struct.pack(f"<{len(numbers)}f", *numbers)))
        elif kind in ("INTS", "STRINGS"):
            attributes.append((name, kind, tuple(attribute.value)))
        elif kind == "TENSOR" and not attribute.as_tensor().dtype.is_string():
            tensor = attribute.as_tensor()
            attributes.append((name, tensor.dtype, tuple(tensor.shape.numpy()), tensor.tobytes()))
        else:
            return None
    left_out = tuple(output.name == "" for output in node.outputs)
    inputs: tuple[object, ...] = tuple(node.inputs)  # values are equal to themselves only
    if is_op(node, *_COMMUTATIVE) and len(inputs) == 2:
        inputs = (frozenset(inputs),)
    return node.domain, node.op_type, node.overload, inputs, tuple(attributes), left_out
