"""Removal of operators that return their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.dimensions import Dims, broadcast, broadcasts_into
from passes.editing import Editor, forward
from passes.matching import (
    constant_array,
    constant_integers,
    constant_number,
    constant_tensor,
    input_at,
    integer,
    integers,
    is_op,
    text,
)
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[["ir.Node", ShapeFacts], "ir.Value | None"]


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """Remove nodes that return an input unchanged.

    Identity, Dropout at inference, Cast to the same type, Transpose, Reshape, Slice, Pad, Expand and Squeeze that
    change nothing, Resize to the same size (in a mode that neither crops nor reads beside the place), Concat and Sum of
    one, x + 0, x - 0, x * 1, x / 1, x ** 1 and a shift by 0 where the shape stays, And with true, and an Expand whose
    readers broadcast to the same shapes by themselves.
    Refuses where the node joins a graph input or constant directly to an output, since both names must stay.
    """

    name: ClassVar[str] = "remove-identities"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        recorder = context.recorder(self.name)
        facts = infer_shapes(model)
        editor = Editor(model)
        for graph in model.graphs():
            for node in list(graph):
                if node.graph is not graph or node.domain != "" or not node.outputs:
                    continue
                if is_op(node, "Expand") and _expand_is_implied(node, facts):
                    if recorder.may_apply(node, "broadcast-implies-expand"):
                        node.outputs[0].replace_all_uses_with(node.inputs[0])  # type: ignore[arg-type]
                        editor.drop(node)
                    continue
                same = _unchanged(node, facts)
                if same is None:
                    continue
                if not _can_forward(node.outputs[0], same):
                    recorder.refuse(node, f"it joins '{same.name}' to the output '{node.outputs[0].name}'")
                    continue
                if recorder.may_apply(node, node.op_type):
                    forward(node.outputs[0], same)
                    editor.drop(node)
        return recorder.result()


def _can_forward(old: ir.Value, new: ir.Value) -> bool:
    if not old.is_graph_output():
        return True
    return new.producer() is not None and new.graph is old.graph and not new.is_graph_output()


def _unchanged(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    rule = RULES.get(node.op_type)
    if rule is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    same = rule(node, facts)
    if same is None or (
        same.type is not None and node.outputs[0].type is not None and same.type != node.outputs[0].type
    ):
        return None
    return same


def _first(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    return node.inputs[0]


def _only(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _dropout(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    training = input_at(node, 2)
    if training is not None and constant_number(training) != 0:
        return None
    return node.inputs[0]


def _cast(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    value = node.inputs[0]
    return value if value is not None and value.dtype == integer(node, "to", -1) else None


def _transpose(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    perm, shape = integers(node, "perm"), facts.shape(node.inputs[0])
    if perm is None:
        return node.inputs[0] if shape is not None and len(shape) < 2 else None
    return node.inputs[0] if list(perm) == sorted(perm) else None


def _same_shape(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    """For operators that keep every element in order: equal shapes mean an unchanged tensor."""
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if before is None or after is None or len(before) != len(after):
        return None
    unknown = sum(old is None or old != new for old, new in zip(before, after, strict=True))
    if unknown == 0:
        return node.inputs[0]
    return None


def _expand(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    before, wanted = facts.shape(node.inputs[0]), facts.content(node.inputs[1])
    if wanted is None:
        return _same_shape(node, facts)
    return node.inputs[0] if broadcasts_into(wanted.elements, before) else None


def _slice(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    starts, ends = constant_integers(input_at(node, 1)), constant_integers(input_at(node, 2))
    steps = constant_integers(input_at(node, 4)) if input_at(node, 4) is not None else [1]
    if starts is None or steps is None or any(starts) or any(step != 1 for step in steps):
        return None
    if ends is not None and all(end >= 2**31 - 1 for end in ends):
        return node.inputs[0]
    return _same_shape(node, facts)


def _pad(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    pads = integers(node, "pads") or constant_integers(input_at(node, 1))
    return node.inputs[0] if pads is not None and not any(pads) else None


def _resize(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
    """Every mode and filter gives element i the place i, and the weights 1 there and 0 elsewhere."""
    if text(node, "coordinate_transformation_mode", "half_pixel") in _OFF_CENTRE:
        return None
    scales, sizes = input_at(node, 2 if len(node.inputs) > 2 else 1), facts.content(input_at(node, 3))
    if _is_all(scales, 1):
        return node.inputs[0]
    shape, axes = facts.shape(node.inputs[0]), integers(node, "axes")
    if shape is None or sizes is None:
        return None
    places = range(len(shape)) if axes is None else [axis % len(shape) for axis in axes]
    return node.inputs[0] if tuple(shape[axis] for axis in places) == sizes.elements else None


def _neutral(neutral: float, *, either_side: bool) -> Rule:
    def rule(node: ir.Node, facts: ShapeFacts) -> ir.Value | None:
        for index in (1, 0) if either_side else (1,):
            constant, kept = node.inputs[index], node.inputs[1 - index]
            if not _is_all(constant, neutral) or constant_tensor(kept) is not None:
                continue
            if broadcasts_into(facts.shape(constant), facts.shape(kept)):
                return kept
        return None

    return rule


def _is_all(value: ir.Value | None, number: float) -> bool:
    array = constant_array(value)
    return array is not None and array.dtype.kind in "fiub" and array.size > 0 and bool((array == number).all())


def _expand_is_implied(node: ir.Node, facts: ShapeFacts) -> bool:
    """Return whether each reader is elementwise and would broadcast the unexpanded input to the same shape."""
    output = node.outputs[0]
    small, large = facts.shape(node.inputs[0]), facts.shape(output)
    if output.is_graph_output() or not output.uses() or large is None or small is None or len(small) > len(large):
        return False
    return all(_broadcasts_anyway(reader, output, small, large, facts) for reader in output.consumers())


def _broadcasts_anyway(reader: ir.Node, value: ir.Value, small: Dims, large: Dims, facts: ShapeFacts) -> bool:
    if sum(operand is value for operand in reader.inputs) != 1:
        return False
    if is_op(reader, "Attention") and input_at(reader, 3) is value:  # the mask, of [B or 1, H or 1, S, T]
        return len(large) == 4 and len(small) == 4 and small[2:] == large[2:] and None not in small
    if not is_op(reader, *_BROADCASTING):
        return False
    others = [facts.shape(operand) for operand in reader.inputs if operand is not value]
    before, after = broadcast([large, *others]), broadcast([small, *others])
    if before is not None and before == after and None not in before:
        return True
    return any(
        other is not None and len(other) >= len(large) and broadcasts_into(large, other) and None not in other
        for other in others
    )


_BROADCASTING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
)  # fmt: skip
_OFF_CENTRE = ("tf_crop_and_resize", "tf_half_pixel_for_nn")

RULES: dict[str, Rule] = {
    "Add": _neutral(0, either_side=True),
    "And": _neutral(1, either_side=True),
    "BitShift": _neutral(0, either_side=False),
    "Cast": _cast,
    "Concat": _only,
    "Div": _neutral(1, either_side=False),
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _same_shape,
    "Identity": _first,
    "Max": _only,
    "Mean": _only,
    "Min": _only,
    "Mul": _neutral(1, either_side=True),
    "Or": _neutral(0, either_side=True),
    "Pad": _pad,
    "Pow": _neutral(1, either_side=False),
    "Reshape": _same_shape,
    "Resize": _resize,
    "Slice": _slice,
    "Squeeze": _same_shape,
    "Sub": _neutral(0, either_side=False),
    "Sum": _only,
    "Tile": _same_shape,
    "Transpose": _transpose,
    "Unsqueeze": _same_shape,
    "Upsample": _resize,
}
