"""Chains of operators that bound a tensor, made one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.base import Context, Pass, PassResult
from passes.cleanup.local_rules import Rule, RuleScope, run_rules
from passes.cleanup.merge_pads import is_non_negative
from passes.matching import FLOATS, constant_number, input_at, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

_INFINITY = float("inf")


@dataclass(frozen=True)
class MergeClips(Pass):
    """Make one of Clip and Relu in a row, and drop those that bound nothing.

    | form | becomes |
    |---|---|
    | Clip(x) without bounds, or from -inf to inf | x |
    | Relu(x), where x comes from Relu, Sigmoid, Abs, Exp, Softmax or a Clip from 0 | x |
    | Clip(Clip(x, a, b), c, d) | one Clip |
    | Clip(Relu(x), c, d), Relu(Clip(x, a, b)) | one Clip |

    NaN stays NaN in all of these. A bound that is left out bounds nothing here, while the specification gives it the
    lowest or highest finite number, which Clip then puts in the place of an infinity. The first of two stays where
    something else reads it. Refuses bounds that vary, and bounds in the wrong order.
    """

    name: ClassVar[str] = "merge-clips"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        return run_rules(self.name, RULES, model, context)


def _bounds(node: ir.Node) -> tuple[float, float] | str:
    """Return the two bounds, infinite where there is none; a reason where they are not known."""
    if node.op_type == "Relu":
        return 0.0, _INFINITY
    if "min" in node.attributes or "max" in node.attributes:
        return "its bounds are attributes of an older operator set"
    found: list[float] = []
    for index, none in ((1, -_INFINITY), (2, _INFINITY)):
        given = input_at(node, index)
        number = none if given is None else constant_number(given)
        if number is None:
            return f"its bound '{given.name if given else ''}' is not constant"
        found.append(number)
    if not found[0] <= found[1]:
        return f"its bounds {found[0]:g} and {found[1]:g} are in the wrong order"
    return found[0], found[1]


def _unbounded(node: ir.Node, scope: RuleScope) -> bool:
    value = node.inputs[0]
    if value is None or _bounds(node) != (-_INFINITY, _INFINITY):
        return False
    return scope.forward(node, value, "unbounded")


def _relu_of_non_negative(node: ir.Node, scope: RuleScope) -> bool:
    value = node.inputs[0]
    if value is None or not is_non_negative(value, depth=2):
        return False
    return scope.forward(node, value, "non-negative")


def _bound_of_bound(node: ir.Node, scope: RuleScope) -> bool:
    import numpy as np

    first = producer_of(node.inputs[0], "Clip", "Relu")
    output = node.outputs[0]
    if first is None or first.graph is not node.graph:
        return False
    dtype = output.dtype or (first.inputs[0].dtype if first.inputs[0] is not None else None)
    inner, outer = _bounds(first), _bounds(node)
    for bounds in (inner, outer):
        if isinstance(bounds, str):
            scope.recorder.refuse(node, bounds, "bound-bound")
            return False
    assert not isinstance(inner, str)
    assert not isinstance(outer, str)
    if dtype is None or dtype.name not in FLOATS:
        scope.recorder.refuse(node, "its type is not known to be of floats", "bound-bound")
        return False
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    if not scope.recorder.may_apply(node, "bound-bound"):
        return False
    if (low, high) == (0.0, _INFINITY):
        scope.put(node, "Relu", first.inputs[:1])
        return True
    inputs = [first.inputs[0]]
    for name, bound in (("min", low), ("max", high)):
        known = abs(bound) != _INFINITY
        array = np.array(bound, dtype=dtype.numpy())
        inputs.append(scope.editor.constant(array, f"{output.name}_{name}") if known else None)
    while inputs[-1] is None:
        inputs.pop()
    scope.put(node, "Clip", inputs)
    return True


RULES: dict[str, tuple[Rule, ...]] = {
    "Clip": (_unbounded, _bound_of_bound),
    "Relu": (_relu_of_non_negative, _bound_of_bound),
}
