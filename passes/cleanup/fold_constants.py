"""Constant folding, bounded in size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.cleanup.evaluation import NotEvaluated, evaluate
from passes.editing import Editor, is_dead
from passes.matching import constant_tensor, has_reference, is_op, opset_of, tensor_of_constant

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder

_VARYING = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}) | {
    "RandomUniformLike"
}
# Folding these would undo explicit quantization: the stored int8 weight would grow back to float.
_QUANTIZING = frozenset({"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute nodes whose inputs are all constant, once and for all.

    Constant nodes become initializers; other nodes are evaluated by onnx's reference evaluator. Neither a result nor an
    input over `max_bytes` is ever made or read; random operators, quantization and operators with subgraphs stay.
    Refuses, with the reason, a foldable node whose result would be too large or cannot be evaluated.
    """

    name: ClassVar[str] = "fold-constants"

    max_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ValueError(f"max_bytes is a size, 0 or more; got {self.max_bytes}")

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        opset = opset_of(model)
        for graph in model.graphs():
            for node in graph:
                if is_op(node, "Constant"):
                    if graph is model.graph:
                        _lift(node, recorder)
                elif _is_foldable(node):
                    self._fold(node, opset, recorder, editor)
        return recorder.result()

    def _fold(self, node: ir.Node, opset: int, recorder: Recorder, editor: Editor) -> None:
        try:
            arrays = evaluate(node, opset, max_bytes=self.max_bytes)
        except NotEvaluated as error:
            recorder.refuse(node, str(error))
            return
        if any(output.is_graph_output() for output in node.outputs) or not recorder.may_apply(node, node.op_type):
            return
        main = editor.model.graph
        for output, array in zip(node.outputs, arrays, strict=True):
            if array is not None and output.uses():
                _become_constant(output, editor.constant(array, f"{output.name}"), keeps_name=node.graph is main)
        if is_dead(node):
            editor.drop(node)


def _is_foldable(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type in _VARYING or node.op_type in _QUANTIZING or not node.inputs:
        return False
    if has_reference(node) or any("GRAPH" in attribute.type.name for attribute in node.attributes.values()):
        return False
    if is_op(node, "Dropout", "BatchNormalization") and len(node.outputs) > 1:
        return False
    return all(value is None or constant_tensor(value) is not None for value in node.inputs)


def _become_constant(old: ir.Value, new: ir.Value, *, keeps_name: bool) -> None:
    """Let the initializer `new` replace `old`; a subgraph's name may have another meaning in a sibling subgraph."""
    name = str(old.name)
    old.replace_all_uses_with(new)
    if keeps_name:
        old.name = None
        new.name = name


def _lift(node: ir.Node, recorder: Recorder) -> None:
    """Turn a Constant node of the main graph into an initializer of the same name."""
    import onnx_ir as ir

    output, graph = node.outputs[0], node.graph
    tensor = tensor_of_constant(node)
    if tensor is None or graph is None or output.is_graph_output() or tensor.dtype == ir.DataType.STRING:
        return
    if not output.uses() or not recorder.may_apply(node, "Constant"):
        return
    name = str(output.name)
    own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)  # other copies of the model share the attribute's
    value = ir.Value(name=name, type=ir.TensorType(own.dtype), shape=ir.Shape(own.shape.numpy()), const_value=own)
    output.replace_all_uses_with(value)
    graph.remove(node)
    graph.register_initializer(value)
