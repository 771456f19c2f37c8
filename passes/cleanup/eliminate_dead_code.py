"""Removal of what nothing reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import is_dead, remove_node

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.base import Recorder


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes, initializers and functions that no output depends on.

    Graph inputs stay, read or not: they are the model's interface. An initializer that gives a graph input its default
    stays as well.
    """

    name: ClassVar[str] = "eliminate-dead-code"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        for graph in reversed(list(model.graphs())):
            for node in reversed(list(graph)):
                if is_dead(node) and recorder.may_apply(node, "node"):
                    remove_node(node)
        for graph in model.graphs():
            for name, value in list(graph.initializers.items()):
                kept = value.uses() or value.is_graph_output() or value.is_graph_input()
                if not kept and recorder.may_apply(name, "initializer"):
                    del graph.initializers[name]
        _drop_functions(model, recorder)
        return recorder.result()


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
