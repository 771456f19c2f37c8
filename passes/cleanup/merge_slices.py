"""Slices, Concats and Splits that undo, follow or complete each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, node_label
from passes.cleanup.local_rules import Rule, RuleScope, run_rules
from passes.matching import constant_integers, input_at, integer, is_op, opset_of, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET_OF_LENGTHS = 13
"""From it on Split takes the lengths of its parts as an input."""

_ALL = 2**31 - 1
Cut = dict[int, tuple[int, int]]
"""By axis: where a Slice of step 1 starts and ends."""


@dataclass(frozen=True)
class MergeSlices(Pass):
    """Make one of Slices and Concats that follow or complete each other.

    | form | becomes |
    |---|---|
    | Slice of Slice, steps 1, on different axes | one Slice |
    | Slice of Slice, steps 1, from the start or to a given end of the same axis | one Slice |
    | two or more Slices of one tensor that cover an axis of known length, each once | one Split |
    | Concat of Concat on the same axis | one Concat |
    | Concat of all the outputs of a Split, in order, on its axis | the tensor that was split |
    | Split into one | the tensor |

    The first of two stays where something else reads it, except before a Concat, which then would copy twice.
    Refuses bounds that vary, Slices that overlap or leave out a part, and Splits before opset 13.
    """

    name: ClassVar[str] = "merge-slices"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return run_rules(self.name, RULES, model, context)


def cut_of(node: ir.Node, scope: RuleScope) -> Cut | None:
    """Return what a Slice of step 1 takes, in numbers that are not negative; None where that is not known."""
    starts, ends = constant_integers(input_at(node, 1)), constant_integers(input_at(node, 2))
    steps = input_at(node, 4)
    shape = scope.shape(node.inputs[0])
    if starts is None or ends is None or shape is None:
        return None
    axes = list(range(len(starts))) if input_at(node, 3) is None else constant_integers(node.inputs[3])
    known_steps = [1] * len(starts) if steps is None else constant_integers(steps)
    if axes is None or known_steps is None or any(step != 1 for step in known_steps):
        return None
    cut: Cut = {}
    for axis, start, end in zip(axes, starts, ends, strict=True):
        length = shape[axis % len(shape)]
        fixed = None if length is None else length.fixed
        if fixed is not None:
            start, end, _ = slice(start, end).indices(fixed)
            end = max(start, end)
        elif start < 0 or end < start:
            return None
        cut[axis % len(shape)] = (start, end)
    return cut


def _slice_of_slice(node: ir.Node, scope: RuleScope) -> bool:
    first = producer_of(node.inputs[0], "Slice")
    if first is None or first.graph is not node.graph or len(first.inputs) < 3 or len(node.inputs) < 3:
        return False
    inner, outer = cut_of(first, scope), cut_of(node, scope)
    if inner is None or outer is None:
        scope.recorder.refuse(node, f"its bounds or those of {node_label(first)} are not known numbers", "slice-slice")
        return False
    merged = dict(inner)
    for axis, (start, end) in outer.items():
        low, high = inner.get(axis, (0, _ALL))
        merged[axis] = (min(low + start, high), min(low + end, high) if end < _ALL else high)
    scope.seen.discard(first.inputs[0])  # its slices are others now
    return _put_slice(node, first.inputs[0], merged, scope, "slice-slice")


def _put_slice(node: ir.Node, source: ir.Value | None, cut: Cut, scope: RuleScope, rule: str) -> bool:
    import numpy as np

    if not scope.recorder.may_apply(node, rule):
        return False
    axes = sorted(cut)
    columns = [[cut[axis][0] for axis in axes], [cut[axis][1] for axis in axes], axes]
    base = node.outputs[0].name
    inputs = [
        scope.editor.constant(np.array(column, dtype=np.int64), f"{base}_{kind}")
        for kind, column in zip(("starts", "ends", "axes"), columns, strict=True)
    ]
    scope.put(node, "Slice", [source, *inputs])
    return True


def _slices_cover(node: ir.Node, scope: RuleScope) -> bool:
    """Put one Split in the place of this Slice and of its siblings."""
    import numpy as np

    source = node.inputs[0]
    if source in scope.seen:
        return False
    scope.seen.add(source)
    siblings = [] if source is None else [reader for reader in source.consumers() if is_op(reader, "Slice")]
    if source is None or len(siblings) < 2 or any(one.graph is not node.graph for one in siblings):
        return False
    parts: dict[tuple[int, int], list[ir.Node]] = {}
    axes: set[int] = set()
    for one in siblings:
        cut = cut_of(one, scope) if one.inputs[0] is source and len(one.inputs) >= 3 else None
        if cut is None or len(cut) != 1:
            return False
        axes.update(cut)
        parts.setdefault(next(iter(cut.values())), []).append(one)
    shape = scope.shape(source)
    if len(axes) != 1 or shape is None or len(parts) < 2:
        return False
    axis = axes.pop()
    length = shape[axis]
    bounds = sorted(parts)
    edges = [0, *(end for _, end in bounds)]
    if (
        length is None
        or length.fixed is None
        or [start for start, _ in bounds] != edges[:-1]
        or edges[-1] != length.fixed
    ):
        scope.recorder.refuse(node, f"the slices of '{source.name}' overlap or leave out a part", "slices-cover")
        return False
    if any(end == start for start, end in bounds):
        return False
    opset = opset_of(scope.model)
    if opset < OPSET_OF_LENGTHS:
        reason = f"Split into given lengths needs opset {OPSET_OF_LENGTHS}, the model has {opset}"
        scope.recorder.refuse(node, reason, "slices-cover")
        return False
    if not scope.recorder.may_apply(node, "slices-cover"):
        return False
    sizes = [end - start for start, end in bounds]
    first = scope.first_of(siblings)
    given = [source, scope.editor.constant(np.array(sizes, dtype=np.int64), f"{source.name}_lengths")]
    new = scope.editor.insert(
        first, "Split", given, name=f"{source.name}_part", attributes={"axis": axis}, outputs=len(bounds)
    )
    split = new.producer()
    assert split is not None
    for output, bound in zip(split.outputs, bounds, strict=True):
        for one in parts[bound]:
            old = one.outputs[0]
            output.type = output.type or old.type
            if output.shape is None and old.shape is not None:
                output.shape = old.shape.copy()
            if old.is_graph_output() and not output.is_graph_output():
                scope.editor.take_over(old, output)
            elif old.is_graph_output():
                continue
            else:
                old.replace_all_uses_with(output)
                scope.editor.drop(one)
    return True


def _concat_of_concat(node: ir.Node, scope: RuleScope) -> bool:
    shape = scope.shape(node.outputs[0])
    if shape is None:
        return False
    axis = integer(node, "axis", 0) % len(shape)
    inner: list[ir.Node] = []
    for value in node.inputs:
        first = producer_of(value, "Concat")
        if first is None or first.graph is not node.graph or integer(first, "axis", 0) % len(shape) != axis:
            continue
        output = first.outputs[0]
        if output.is_graph_output() or any(reader is not node for reader in output.consumers()):
            scope.recorder.refuse(node, f"'{output.name}' has another reader", "concat-concat")
            continue
        inner.append(first)
    if not inner:
        return False
    flat: list[ir.Value | None] = []
    for value in node.inputs:
        producer = None if value is None else value.producer()
        flat.extend(producer.inputs if producer is not None and producer in inner else [value])
    return scope.replace(node, "Concat", flat, "concat-concat", {"axis": axis})


def _concat_of_split(node: ir.Node, scope: RuleScope) -> bool:
    split = producer_of(node.inputs[0], "Split")
    if split is None or tuple(node.inputs) != tuple(split.outputs) or split.inputs[0] is None:
        return False
    shape = scope.shape(split.inputs[0])
    if shape is None or (integer(node, "axis", 0) - integer(split, "axis", 0)) % len(shape):
        return False
    return scope.forward(node, split.inputs[0], "concat-split")


def _split_into_one(node: ir.Node, scope: RuleScope) -> bool:
    if len(node.outputs) != 1 or node.inputs[0] is None:
        return False
    return scope.forward(node, node.inputs[0], "split-into-one")


RULES: dict[str, tuple[Rule, ...]] = {
    "Concat": (_concat_of_split, _concat_of_concat),
    "Slice": (_slice_of_slice, _slices_cover),
    "Split": (_split_into_one,),
}
