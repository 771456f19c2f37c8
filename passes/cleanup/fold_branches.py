"""If with a condition that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.cleanup.inlined_body import take_out, why_not_named
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
            reason = why_not_named(node.outputs, branch.outputs, branch, place="branch")
            if reason:
                recorder.refuse(node, reason)
                continue
            if not recorder.may_apply(node, "then" if condition else "else"):
                break
            editor = editor or Editor(model)
            _inline(node, branch, editor)
        return recorder.result()


def _inline(node: ir.Node, branch: ir.Graph, editor: Editor) -> None:
    for output, result in zip(node.outputs, take_out(branch, node, editor), strict=True):
        if result.type is None:
            result.type = output.type
        forward(output, result)
    editor.drop(node)
