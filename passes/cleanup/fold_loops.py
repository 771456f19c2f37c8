"""Loop that runs once or never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.cleanup.inlined_body import take_out, why_not_named
from passes.editing import Editor, forward
from passes.matching import constant_number, has_reference, input_at, is_op, opset_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import onnx_ir as ir

OPSET_OF_AXES = 13
"""From it on Unsqueeze takes its axes as an input."""

_OWN_INPUTS = 2  # the trip's number and the condition, before what is carried


@dataclass(frozen=True)
class FoldLoops(Pass):
    """Put the body of a Loop that runs once in its place, and let a Loop that never runs go.

    | trip count | condition | after the first trip | becomes |
    |---|---|---|---|
    | 1 | absent or true | | the body |
    | absent, 1 or more | true | false | the body |
    | 0 | | | the initial values |
    | | false | | the initial values |

    What the Loop gathers from its trips gets that axis, of length 1, by Unsqueeze. Names that the rest of the model
    uses as well become fresh ones; the Loop's own output names stay.
    Refuses where a value that is not made in the body, or one value twice, would become an output of the graph, where
    what is gathered from no trip at all is read, and to Unsqueeze before opset 13.
    """

    name: ClassVar[str] = "fold-loops"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor: Editor | None = None
        for node in [node for graph in model.graphs() for node in graph if is_op(node, "Loop")]:
            if node.graph is None or has_reference(node):
                continue
            body = node.attributes["body"].as_graph()
            trips = _trips(node, body)
            if trips is None:
                continue
            reason = _why_not_once(node, body, opset_of(model)) if trips else _why_not_never(node, body)
            if reason:
                recorder.refuse(node, reason)
                continue
            if not recorder.may_apply(node, "once" if trips else "never"):
                break
            editor = editor or Editor(model)
            if trips:
                _inline(node, body, editor)
            else:
                for output, initial in zip(node.outputs, _initial(node), strict=False):
                    forward(output, initial)
            if node.graph is not None:
                editor.drop(node)
        return recorder.result()


def _trips(node: ir.Node, body: ir.Graph) -> int | None:
    """Return 0 or 1 where that is how often the body runs; None for any other number, or one that is not known."""
    count, condition = input_at(node, 0), input_at(node, 1)
    most, first = constant_number(count), constant_number(condition)
    if (most is not None and most <= 0) or first == 0:
        return 0
    is_entered = condition is None or first is not None
    if is_entered and most == 1:
        return 1
    ends = condition is not None and constant_number(body.outputs[0]) == 0
    return 1 if is_entered and ends and (count is None or most is not None) else None


def _initial(node: ir.Node) -> Sequence[ir.Value]:
    return [value for value in node.inputs[_OWN_INPUTS:] if value is not None]


def _gathered(node: ir.Node, body: ir.Graph) -> Sequence[ir.Value]:
    """Return the outputs that hold a row of each trip."""
    return [
        value for value in node.outputs[len(body.inputs) - _OWN_INPUTS :] if value.uses() or value.is_graph_output()
    ]


def _why_not_once(node: ir.Node, body: ir.Graph, opset: int) -> str:
    if opset < OPSET_OF_AXES and _gathered(node, body):
        return f"Unsqueeze of what it gathers needs opset {OPSET_OF_AXES}, the model has {opset}"
    carried = len(body.inputs) - _OWN_INPUTS
    return why_not_named(node.outputs[:carried], body.outputs[1 : 1 + carried], body, place="body")


def _why_not_never(node: ir.Node, body: ir.Graph) -> str:
    gathered = _gathered(node, body)
    if gathered:
        return f"'{gathered[0].name}', gathered from no trip, is read"
    seen: set[ir.Value] = set()
    for output, initial in zip(node.outputs, _initial(node), strict=False):
        if not output.is_graph_output():
            continue
        is_own = initial.producer() is not None and initial.graph is node.graph and not initial.is_graph_output()
        if not is_own or initial in seen:
            return f"it joins '{initial.name}' to the output '{output.name}'"
        seen.add(initial)
    return ""


def _inline(node: ir.Node, body: ir.Graph, editor: Editor) -> None:
    import numpy as np

    number, condition, *carried = body.inputs
    _, *results = take_out(body, node, editor)
    given = {
        number: _filled(number, np.array(0, np.int64), editor),
        condition: _filled(condition, np.array(True), editor),
        **dict(zip(carried, _initial(node), strict=True)),
    }
    for value, outer in given.items():
        value.replace_all_uses_with(outer)
    results = [given.get(result, result) for result in results]
    count = len(carried)
    for output, result in zip(node.outputs[:count], results[:count], strict=True):
        if result.type is None:
            result.type = output.type
        forward(output, result)
    for output, result in zip(node.outputs[count:], results[count:], strict=True):
        if output.uses() or output.is_graph_output():
            axes = editor.constant(np.array([0], np.int64), f"{output.name}_axes")
            rows = editor.insert(node, "Unsqueeze", [result, axes], name=str(output.name), like=output)
            editor.take_over(output, rows)


def _filled(value: ir.Value, element: np.ndarray, editor: Editor) -> ir.Value:
    """Return the constant that the first trip sees in `value`, of rank 0 or 1 as the body states."""
    rank = 0 if value.shape is None else value.shape.rank()
    return editor.constant(element.reshape((1,) * rank), f"{value.name}_first")
