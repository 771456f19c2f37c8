"""What TensorRT refuses of an operator that it has a kernel for: one row a fact, each seen refused by its parser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class NodeRule:
    """`is_broken` tells whether a node is refused, for `reason`."""

    operators: frozenset[str]
    is_broken: Callable[[ir.Node], bool]
    reason: str


def broken_rules(node: ir.Node) -> Iterator[str]:
    """Yield the reason of every rule that the node breaks."""
    for rule in _RULES:
        if node.op_type in rule.operators and rule.is_broken(node):
            yield rule.reason


def _input_is_computed(position: int) -> Callable[[ir.Node], bool]:
    """Return a predicate: the input exists and is no constant of the graph."""

    def is_broken(node: ir.Node) -> bool:
        import onnx_ir as ir

        value = node.inputs[position] if len(node.inputs) > position else None
        return value is not None and ir.convenience.get_const_tensor(value) is None

    return is_broken


def _attribute_is(name: str, *refused: str) -> Callable[[ir.Node], bool]:
    def is_broken(node: ir.Node) -> bool:
        return node.attributes.get_string(name, "") in refused

    return is_broken


def _attribute_is_set(name: str) -> Callable[[ir.Node], bool]:
    def is_broken(node: ir.Node) -> bool:
        return node.attributes.get_int(name, 0) != 0

    return is_broken


def _is_dilated(node: ir.Node) -> bool:
    return any(step != 1 for step in node.attributes.get_ints("dilations", []))


def _has_unsupported_norm(node: ir.Node) -> bool:
    return node.attributes.get_int("p", 2) not in (1, 2)


def _reads_second_output(node: ir.Node) -> bool:
    return any(value.name and (value.uses() or value.is_graph_output()) for value in node.outputs[1:])


def _is_float_modulus(node: ir.Node) -> bool:
    kind = next((value.dtype for value in node.inputs if value is not None), None)
    return kind is not None and kind.is_floating_point() and node.attributes.get_int("fmod", 0) == 0


_REDUCTIONS = frozenset(
    {
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax"),
        *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
    }
)
_POOLS = frozenset({"AveragePool", "MaxPool", "LpPool"})
_SCATTERS = frozenset({"ScatterND", "ScatterElements"})
_RESIZE = frozenset({"Resize"})
_CONSTANT_AXES = "its axes are computed; TensorRT wants a constant"

_RULES: tuple[NodeRule, ...] = (
    NodeRule(_REDUCTIONS | {"Squeeze", "Unsqueeze"}, _input_is_computed(1), _CONSTANT_AXES),
    NodeRule(frozenset({"STFT"}), _input_is_computed(1), "its frame step is computed; TensorRT wants a constant"),
    NodeRule(_POOLS, _is_dilated, "dilated pooling is not taken"),
    NodeRule(frozenset({"LpPool"}), _has_unsupported_norm, "only p=1 and p=2 are taken"),
    NodeRule(frozenset({"MaxPool"}), _reads_second_output, "its index output is not taken"),
    NodeRule(frozenset({"LayerNormalization"}), _reads_second_output, "its mean and deviation outputs are not taken"),
    NodeRule(_SCATTERS, _attribute_is("reduction", "add", "mul", "max", "min"), "a reduction is not taken"),
    NodeRule(_RESIZE, _attribute_is_set("antialias"), "antialiasing is not taken"),
    NodeRule(
        _RESIZE,
        _attribute_is("keep_aspect_ratio_policy", "not_larger", "not_smaller"),
        "only keep_aspect_ratio_policy=stretch is taken",
    ),
    NodeRule(
        _RESIZE,
        _attribute_is("coordinate_transformation_mode", "tf_crop_and_resize", "half_pixel_symmetric"),
        "its coordinate transformation is not taken",
    ),
    NodeRule(frozenset({"TensorScatter"}), _attribute_is("mode", "circular"), "only linear mode is taken"),
    NodeRule(frozenset({"Mod"}), _is_float_modulus, "a modulus of floats is taken only with fmod=1"),
)
