"""If with a condition that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, Recorder
from passes.editing import Editor, forward
from passes.matching import constant_number, has_reference, is_op

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class FoldBranches(Pass):
    """Put the branch that runs in the place of an If whose condition is constant.

    Names that the rest of the model uses as well become fresh ones; the If's own output names stay. Branches inside the
    branch follow in the same run.
    Refuses where the branch hands an outer value, or one value twice, to an output of the graph: both names must stay.
    """

    name: ClassVar[str] = "fold-branches"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor: Editor | None = None
        pending = [node for graph in model.graphs() for node in graph if is_op(node, "If")]
        for node in pending:
            condition = constant_number(node.inputs[0]) if node.inputs else None
            if condition is None or node.graph is None or has_reference(node):
                continue
            branch = node.attributes["then_branch" if condition else "else_branch"].as_graph()
            reason = _why_not(node, branch)
            if reason:
                recorder.refuse(node, reason)
                continue
            if not recorder.may_apply(node, "then" if condition else "else"):
                break
            editor = editor or Editor(model)
            _inline(node, branch, editor, recorder)
        return recorder.result()


def _why_not(node: ir.Node, branch: ir.Graph) -> str:
    inner = {output for step in branch for output in step.outputs}
    seen: set[ir.Value] = set()
    for output, result in zip(node.outputs, branch.outputs, strict=True):
        if output.is_graph_output() and (result not in inner or result in seen):
            return f"the branch hands '{result.name}' on as the output '{output.name}' of the graph"
        seen.add(result)
    return ""


def _inline(node: ir.Node, branch: ir.Graph, editor: Editor, recorder: Recorder) -> None:
    graph = node.graph
    assert graph is not None
    results = list(branch.outputs)
    branch.outputs.clear()
    for name, value in list(branch.initializers.items()):
        del branch.initializers[name]
        value.name = editor.fresh_name(name)
        editor.model.graph.register_initializer(value)
    steps = list(branch)
    branch.remove(steps)
    _rename(steps, editor)
    graph.insert_before(node, steps)
    for output, result in zip(node.outputs, results, strict=True):
        if result.type is None:
            result.type = output.type
        forward(output, result)
    editor.drop(node)


def _rename(steps: list[ir.Node], editor: Editor) -> None:
    """Give the values and nodes that come out of the branch, with all that is in their own branches, unique names."""
    import onnx_ir as ir

    for step in steps:
        for value in step.outputs:
            if value.name:
                value.name = editor.fresh_name(value.name)
        if step.name:
            step.name = editor.fresh_name(step.name)
        for attribute in step.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                inner = attribute.as_graph()
                for value in inner.inputs:
                    value.name = editor.fresh_name(str(value.name))
                _rename(list(inner), editor)
