"""Removal of what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import is_dead, remove_node
from passes.matching import opset_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes, optional outputs, initializers and functions that no output depends on.

    An optional output that nobody reads, such as the mask of Dropout or the indices of MaxPool, is left out, so that it
    is not computed. Graph inputs stay, read or not: they are the model's interface. An initializer that gives a graph
    input its default stays as well.
    """

    name: ClassVar[str] = "eliminate-dead-code"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        for graph in reversed(list(model.graphs())):
            for node in reversed(list(graph)):
                if is_dead(node):
                    if recorder.may_apply(node, "node"):
                        remove_node(node)
                elif len(node.outputs) > 1 and node.domain == "":
                    _leave_out(node, opset_of(model), recorder)
        for graph in model.graphs():
            for name, value in list(graph.initializers.items()):
                kept = value.uses() or value.is_graph_output() or value.is_graph_input()
                if not kept and recorder.may_apply(name, "initializer"):
                    del graph.initializers[name]
        _drop_functions(model, recorder)
        return recorder.result()


def _leave_out(node: ir.Node, opset: int, recorder: Recorder) -> None:
    unread = [
        index
        for index, value in enumerate(node.outputs)
        if value.name != "" and not value.uses() and not value.is_graph_output()
    ]
    if not unread:
        return
    optional = [index for index in unread if index in _optional_outputs(node.op_type, opset)]
    if not optional or not recorder.may_apply(node, "output"):
        return
    for index in optional:
        node.outputs[index].name = ""
    count = len(node.outputs)
    while node.outputs[count - 1].name == "":
        count -= 1
    node.resize_outputs(count)


@cache
def _optional_outputs(op_type: str, opset: int) -> frozenset[int]:
    """Return the outputs that a standard operator may leave out; none where onnx does not know it."""
    import onnx

    try:
        outputs = onnx.defs.get_schema(op_type, opset, "").outputs
    except onnx.defs.SchemaError:
        return frozenset()
    kinds = onnx.defs.OpSchema.FormalParameterOption
    return frozenset(index for index, output in enumerate(outputs) if output.option == kinds.Optional)


def _drop_functions(model: ir.Model, recorder: Recorder) -> None:
    used: set[ir.OperatorIdentifier] = set()
    pending = [node.op_identifier() for node in model.graph.all_nodes()]
    while pending:
        key = pending.pop()
        if key in used or key not in model.functions:
            continue
        used.add(key)
        pending.extend(node.op_identifier() for node in model.functions[key].all_nodes())
    for key in list(model.functions):
        if key not in used and recorder.may_apply("::".join(part for part in key if part), "function"):
            del model.functions[key]
