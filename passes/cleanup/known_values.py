"""Tensors known without running: one number throughout, or numbers that run along one axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from passes.cleanup.counting import is_one_throughout
from passes.matching import constant_array, constant_number, integer, is_op
from passes.shape_rules import axes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.shapes import ShapeFacts

_DEPTH = 12
_MOVES = ("Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze")


def uniform_number(value: ir.Value | None, facts: ShapeFacts, *, depth: int = _DEPTH) -> float | None:
    """Return the number that every element of `value` is, or None."""
    if value is None or depth == 0:
        return None
    array = constant_array(value)
    if array is not None:
        if array.size == 0 or array.dtype.kind not in "iufb" or not bool((array == array.flat[0]).all()):
            return None
        return float(array.flat[0])
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if is_op(node, *_MOVES, "Gather", "GatherElements", "GatherND"):
        return uniform_number(node.inputs[0], facts, depth=depth - 1)
    if is_op(node, "ConstantOfShape"):
        attribute = node.attributes.get("value")
        if attribute is None:
            return 0.0
        tensor = attribute.as_tensor()
        return None if tensor.dtype.is_string() else float(tensor.numpy().reshape(-1)[0])
    if is_op(node, "And"):
        numbers = [uniform_number(operand, facts, depth=depth - 1) for operand in node.inputs]
        return 1.0 if numbers == [1.0, 1.0] else (0.0 if 0.0 in numbers else None)
    if is_op(node, "Sub"):
        return 1.0 if is_one_throughout(node, facts) else None
    if is_op(node, "Not", "Cast", "CumSum", "Equal"):
        return _uniform_logic(node, [uniform_number(operand, facts, depth=depth - 1) for operand in node.inputs])
    if is_op(node, "GreaterOrEqual", "Greater"):
        limit = constant_number(node.inputs[1])
        below = limit is not None and (limit <= 0 if node.op_type == "GreaterOrEqual" else limit < 0)
        return 1.0 if below and is_running(node.inputs[0], facts, depth=depth - 1) is not None else None
    return None


def _uniform_logic(node: ir.Node, numbers: list[float | None]) -> float | None:
    """Return the number throughout of an operator that keeps 0 and 1, or makes them."""
    if node.op_type == "Equal":
        return None if None in numbers else float(numbers[0] == numbers[1])
    if numbers[0] not in (0.0, 1.0):
        return None
    if node.op_type == "CumSum":
        return 0.0 if numbers[0] == 0 else None
    return numbers[0] if node.op_type == "Cast" else 1.0 - (numbers[0] or 0.0)


def is_running(value: ir.Value | None, facts: ShapeFacts, *, depth: int = _DEPTH) -> int | None:
    """Return the axis along which `value` counts 0, 1, 2, ... and is the same along all others; None otherwise."""
    node = None if value is None else value.producer()
    if node is None or depth == 0 or node.domain != "":
        return None
    if is_op(node, "Range"):
        return 0 if constant_number(node.inputs[0]) == 0 and constant_number(node.inputs[2]) == 1 else None
    inner = is_running(node.inputs[0], facts, depth=depth - 1) if node.inputs else None
    if inner is None:
        return None
    before, after = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if before is None or after is None:
        return None
    if is_op(node, "Identity"):
        return inner
    if is_op(node, "Cast"):
        return inner if integer(node, "to", 0) in (6, 7) else None  # int32, int64
    if is_op(node, "Unsqueeze"):
        axes = axes_of(node, facts)
        if axes is None:
            return None
        new = {axis % len(after) for axis in axes}
        return [axis for axis in range(len(after)) if axis not in new][inner]
    if is_op(node, "Expand"):
        moved = inner + len(after) - len(before)
        return moved if after[moved] == before[inner] else None
    return None
