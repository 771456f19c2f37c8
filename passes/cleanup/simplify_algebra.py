"""Algebra that holds for every number, infinities, NaN and signed zeros included; products of constants round once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult, node_label
from passes.cleanup.local_rules import Rule, RuleScope, run_rules
from passes.dimensions import broadcasts_into
from passes.matching import (
    FLOATS,
    constant_array,
    constant_number,
    constant_tensor,
    is_op,
    operand_pairs,
    other_readers,
    producer_of,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir


@dataclass(frozen=True)
class SimplifyAlgebra(Pass):
    """Replace arithmetic by less of it.

    | form | becomes |
    |---|---|
    | -(-x), not not x | x |
    | abs(abs x), abs(-x) | abs x |
    | a + (-b), a - (-b) | a - b, a + b |
    | x ** 2 of floats | x * x |
    | (x * a) * b of constants with one element | x * (a * b) |
    | (x + a) + b of integers | x + (a + b) |
    | Where with a condition that is the same throughout, or two equal branches | the branch |

    Products of constants round once where the chain rounded twice. Refuses chains whose constants would overflow or
    underflow, products in float16, sums of floats, where a + b may lose what x + a keeps, chains whose first result
    has another reader, and constants that add axes.
    """

    name: ClassVar[str] = "simplify-algebra"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return run_rules(self.name, RULES, model, context)


def _of_itself(node: ir.Node, scope: RuleScope) -> bool:
    first = producer_of(node.inputs[0], node.op_type)
    if first is None or first.inputs[0] is None or first.graph is not node.graph:
        return False
    return scope.forward(node, first.inputs[0], f"{node.op_type.lower()}-{node.op_type.lower()}")


def _abs(node: ir.Node, scope: RuleScope) -> bool:
    first = producer_of(node.inputs[0], "Abs", "Neg")
    if first is None or first.graph is not node.graph:
        return False
    if is_op(first, "Abs"):
        return scope.forward(node, first.outputs[0], "abs-abs")
    return scope.replace(node, "Abs", first.inputs[:1], "abs-neg")


def _add_negated(node: ir.Node, scope: RuleScope) -> bool:
    for kept, negated in operand_pairs(node):
        first = producer_of(negated, "Neg")
        if first is not None and kept is not negated and first.graph is node.graph:
            return scope.replace(node, "Sub", [kept, first.inputs[0]], "add-neg")
    return False


def _subtract_negated(node: ir.Node, scope: RuleScope) -> bool:
    first = producer_of(node.inputs[1], "Neg")
    if first is None or first.graph is not node.graph:
        return False
    return scope.replace(node, "Add", [node.inputs[0], first.inputs[0]], "sub-neg")


def _square(node: ir.Node, scope: RuleScope) -> bool:
    value, exponent = node.inputs[0], node.inputs[1]
    tensor = constant_tensor(exponent)
    if value is None or tensor is None or constant_number(exponent) != 2 or value.dtype is None:
        return False
    shape = scope.shape(value)
    if value.dtype.name not in FLOATS or shape is None:
        return False
    if len(tensor.shape) > len(shape):
        scope.recorder.refuse(node, "the exponent adds axes", "pow-2")
        return False
    return scope.replace(node, "Mul", [value, value], "pow-2")


def _constant_operand(node: ir.Node) -> tuple[ir.Value, np.ndarray] | None:
    for varying, fixed in operand_pairs(node):
        array = constant_array(fixed)
        if array is not None and array.size == 1 and constant_tensor(varying) is None:
            return varying, array
    return None


def _chain(node: ir.Node, scope: RuleScope) -> bool:
    """(x o a) o b becomes x o (a o b)."""
    import numpy as np

    outer = _constant_operand(node)
    first = None if outer is None else producer_of(outer[0], node.op_type)
    inner = None if first is None else _constant_operand(first)
    if outer is None or inner is None or first is None or first.graph is not node.graph:
        return False
    reason = other_readers(first.outputs[0], node)
    shape = scope.shape(inner[0])
    a, b = inner[1], outer[1]
    if not reason and (shape is None or max(a.ndim, b.ndim) > len(shape)):
        reason = "a constant adds axes"
    with np.errstate(all="ignore"):
        merged = np.asarray(a * b if node.op_type == "Mul" else a + b, dtype=a.dtype)
    if not reason and a.dtype.kind != "i" and a.dtype.kind != "u":
        reason = _why_inexact(a, b, merged, node.op_type)
    if reason:
        scope.recorder.refuse(node, reason, f"{node.op_type.lower()}-chain")
        return False
    if not scope.recorder.may_apply(node, f"{node.op_type.lower()}-chain"):
        return False
    constant = scope.editor.constant(merged.reshape(()), f"{node.outputs[0].name}_constant")
    scope.put(node, node.op_type, [inner[0], constant])
    return True


def _why_inexact(a: np.ndarray, b: np.ndarray, merged: np.ndarray, op_type: str) -> str:
    """Return why rounding once differs from rounding twice by more than rounding; empty where it does not."""
    one, two, both = (float(array.reshape(-1)[0]) for array in (a, b, merged))
    if op_type == "Add":
        return "sums of floats round at each step"
    if a.dtype.kind != "f":  # bfloat16 and the eight-bit types
        return "its type is not one that numpy rounds"
    if a.dtype.itemsize == 2:
        return "a float16 product in between may overflow"
    import numpy as np

    if both == 0 or not np.isfinite(both) or abs(both) < float(np.finfo(a.dtype).tiny):
        return "the constants overflow or underflow"
    # an inner product must not have overflowed where the merged one does not, or the reverse
    return (
        "" if 1 / 4096 <= abs(one) <= 4096 and 1 / 4096 <= abs(two) <= 4096 else "the constants are very large or small"
    )


def _where(node: ir.Node, scope: RuleScope) -> bool:
    condition, yes, no = node.inputs
    array = constant_array(condition)
    chosen = None
    if yes is no:
        chosen = yes
    elif array is not None and array.size and (array.all() or not array.any()):
        chosen = yes if array.all() else no
    if chosen is None or constant_tensor(chosen) is not None:
        return False
    target = scope.shape(chosen)
    if not all(broadcasts_into(scope.shape(value), target) for value in node.inputs if value is not chosen):
        scope.recorder.refuse(node, f"another operand of {node_label(node)} may give the result its shape", "where")
        return False
    return scope.forward(node, chosen, "where")


RULES: dict[str, tuple[Rule, ...]] = {
    "Abs": (_abs,),
    "Add": (_add_negated, _chain),
    "Mul": (_chain,),
    "Neg": (_of_itself,),
    "Not": (_of_itself,),
    "Pow": (_square,),
    "Sub": (_subtract_negated,),
    "Where": (_where,),
}
