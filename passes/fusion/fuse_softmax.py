"""Softmax as one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.matching import (
    FLOATS,
    constant_integers,
    first_shared,
    input_at,
    integer,
    integers,
    is_op,
    operand_pairs,
    opset_of,
    producer_of,
)

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_SOFTMAX = 13
"""Before it, Softmax flattened all axes from the given one on."""


@dataclass(frozen=True)
class FuseSoftmax(Pass):
    """Raise e / sum(e), e = exp(x - max(x)), to Softmax, and x - max(x) - log(sum(e)) to LogSoftmax.

    | form | becomes |
    |---|---|
    | Div of Exp and its ReduceSum | Softmax |
    | Mul of Exp and the Reciprocal of its ReduceSum | Softmax |
    | Sub of x - max(x) and the Log of the ReduceSum | LogSoftmax |

    Maximum and sum are over the same single axis, which is kept. exp(x) / sum(exp(x)) stays: it overflows where Softmax
    does not. Refuses when an inner value has another reader or the opset is older than 13.
    """

    name: ClassVar[str] = "fuse-softmax"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or not is_op(node, "Div", "Mul", "Sub"):
                    continue
                match = _match(node)
                if match is None:
                    continue
                if opset_of(model) < OPSET_OF_SOFTMAX:
                    recorder.refuse(node, f"Softmax needs opset 13, the model has {opset_of(model)}")
                    continue
                reason = first_shared(match.nodes, node)
                if reason:
                    recorder.refuse(node, reason)
                elif recorder.may_apply(node, match.op_type):
                    output = node.outputs[0]
                    new = editor.insert(
                        node,
                        match.op_type,
                        [match.value],
                        name=str(output.name),
                        attributes={"axis": match.axis},
                        like=output,
                    )
                    editor.take_over(output, new)
        return recorder.result()


@dataclass(frozen=True, slots=True)
class _Match:
    op_type: str
    value: ir.Value
    axis: int
    nodes: tuple[ir.Node, ...]


def _match(node: ir.Node) -> _Match | None:
    if node.outputs[0].dtype is None or node.outputs[0].dtype.name not in FLOATS:
        return None
    if node.op_type == "Sub":
        log = producer_of(node.inputs[1], "Log")
        total = None if log is None else producer_of(log.inputs[0], "ReduceSum")
        exponential = None if total is None else producer_of(total.inputs[0], "Exp")
        if log is None or total is None or exponential is None or exponential.inputs[0] is not node.inputs[0]:
            return None
        return _shifted("LogSoftmax", exponential, total, (log,))
    pairs = operand_pairs(node) if node.op_type == "Mul" else iter([tuple(node.inputs)])
    for above, below in pairs:
        between: tuple[ir.Node, ...] = ()
        if node.op_type == "Mul":
            reciprocal = producer_of(below, "Reciprocal")
            if reciprocal is None:
                continue
            between, below = (reciprocal,), reciprocal.inputs[0]
        total, exponential = producer_of(below, "ReduceSum"), producer_of(above, "Exp")
        if total is not None and exponential is not None and total.inputs[0] is above:
            return _shifted("Softmax", exponential, total, between)
    return None


def _shifted(op_type: str, exponential: ir.Node, total: ir.Node, between: tuple[ir.Node, ...]) -> _Match | None:
    """Return the match where `exponential` is that of x - max(x), over the axis that `total` sums."""
    shift = producer_of(exponential.inputs[0], "Sub")
    largest = None if shift is None else producer_of(shift.inputs[1], "ReduceMax")
    if shift is None or largest is None or largest.inputs[0] is not shift.inputs[0] or shift.inputs[0] is None:
        return None
    axis = _axis(total)
    if axis is None or _axis(largest) != axis:
        return None
    return _Match(op_type, shift.inputs[0], axis, (largest, shift, exponential, total, *between))


def _axis(node: ir.Node) -> int | None:
    """Return the only axis of a reduction that keeps its dimensions, as the model states it."""
    axes = integers(node, "axes") or constant_integers(input_at(node, 1))
    return axes[0] if axes is not None and len(axes) == 1 and integer(node, "keepdims", 1) else None
