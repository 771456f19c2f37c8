"""Values that hold a mask or are computed from integers alone, which half precision makes infinite, or blurs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from passes.matching import constant_tensor, is_op
from passes.precision.half_tensors import Constants, Magnitudes, magnitudes_of
from passes.precision.type_slots import is_float

if TYPE_CHECKING:
    import onnx_ir as ir

_VIEWS = frozenset(
    {
        *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Tile", "Slice", "Gather"),
        *("GatherND", "GatherElements", "Concat", "Split", "Pad", "Trilu", "ScatterND", "ScatterElements", "Cast"),
    }
)
_CARRIERS = _VIEWS | {"Where", "Add", "Sub", "Mul", "Neg", "Max", "Min", "Sum", "Abs", "ConstantOfShape", "Constant"}
"""Operators whose result is as large as what they read."""

_TO_SCORES = _VIEWS | {"Add", "Sub", "Where", "Sum", "Max", "Min"}
_COUNTING = frozenset({"INT64", "INT32", "BOOL"})
_WEIGHTS_FROM = 4096
"""A product with this many weights makes signal even from integers."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "LSTM", "GRU", "RNN"})


@dataclass(slots=True)
class MaskValues:
    """huge: values that may hold finite numbers beyond the half type. endless: those that may hold infinities.

    counted: the nodes that compute from integers and constants alone: positions, masks.
    """

    huge: set[ir.Value] = field(default_factory=set)
    endless: set[ir.Value] = field(default_factory=set)
    counted: set[ir.Node] = field(default_factory=set)


def mask_values(graphs: Iterable[ir.Graph], constants: Constants, *, greatest: float) -> MaskValues:
    """Return what is known of all values of the graphs, an outer graph before its inner ones."""
    found = MaskValues()
    listed = list(graphs)
    for value in _mask_inputs(listed):
        found.huge.add(value)
        found.endless.add(value)
    unsigned = _Counting()
    for graph in listed:
        is_main = graph is listed[0]
        for value in graph.initializers.values():
            _note(value, constants.magnitudes(value), found, greatest)
        for node in graph:
            if is_main and unsigned.counts(node):
                found.counted.add(node)
            if node.op_type in ("Constant", "ConstantOfShape"):
                _note(node.outputs[0], _made(node, constants), found, greatest)
            elif is_carrier(node):
                for values in (found.huge, found.endless):
                    if any(value in values for value in _passed_on(node)):
                        values.update(output for output in node.outputs if is_float(output))
    return found


def is_carrier(node: ir.Node) -> bool:
    """Return whether the node's result is as large as what it reads."""
    return node.op_type in _CARRIERS and node.domain in ("", "ai.onnx")


def _passed_on(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that a carrier's result may hold: a constant bound of Max or Min is there to keep others in."""
    is_bounded = node.op_type in ("Max", "Min")
    return [value for value in node.inputs if value is not None and not (is_bounded and constant_tensor(value))]


class _Counting:
    """Tells nodes that compute floats from integers and constants alone, in graph order."""

    def __init__(self) -> None:
        self.signal: set[ir.Value] = set()

    def counts(self, node: ir.Node) -> bool:
        floats = [value for value in node.inputs if is_float(value) and constant_tensor(value) is None]
        is_signal = any(value in self.signal or value.is_graph_input() for value in floats if value is not None)
        is_signal = is_signal or self._is_fresh(node)
        if is_signal:
            self.signal.update(value for value in node.outputs if is_float(value))
        makes = any(is_float(value) for value in node.outputs)
        return makes and not is_signal and node.op_type != "Constant"

    def _is_fresh(self, node: ir.Node) -> bool:
        """Return whether the node makes signal of integers: a lookup in a table, an image's bytes, a product."""
        import onnx_ir as ir

        kinds = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        if any(attribute.type in kinds for attribute in node.attributes.values()) or node.domain not in ("", "ai.onnx"):
            return True
        sizes = [tensor.size for value in node.inputs if is_float(value) and (tensor := constant_tensor(value))]
        if node.op_type in _PRODUCTS or node.op_type in ("Gather", "GatherND", "GatherElements"):
            return max(sizes, default=0) >= _WEIGHTS_FROM
        source = node.inputs[0] if node.inputs else None
        if node.op_type in ("Cast", "DequantizeLinear") and source is not None and source.dtype is not None:
            return source.dtype.name not in _COUNTING and not is_float(source)
        return node.op_type.startswith("Random")


def _made(node: ir.Node, constants: Constants) -> Magnitudes | None:
    """Return what a Constant or ConstantOfShape makes, where that is float32."""
    if node.op_type == "Constant":
        return constants.magnitudes(node.outputs[0])
    attribute = node.attributes.get("value")
    tensor = None if attribute is None or attribute.is_ref() else attribute.as_tensor()
    return magnitudes_of(tensor) if tensor is not None and tensor.dtype.name == "FLOAT" else None


def _note(value: ir.Value, magnitudes: Magnitudes | None, found: MaskValues, greatest: float) -> None:
    if magnitudes is None:
        return
    if magnitudes.masks or magnitudes.peak > greatest:
        found.huge.add(value)
    if magnitudes.infinities:
        found.endless.add(value)


def _mask_inputs(graphs: list[ir.Graph]) -> set[ir.Value]:
    """Return the float inputs of the main graph that are added to the scores of a Softmax or Attention."""
    found: set[ir.Value] = set()
    seen: set[ir.Value] = set()
    pending: list[ir.Value] = []
    for graph in graphs:
        for node in graph:
            if is_op(node, "Softmax", "LogSoftmax"):
                pending.extend(value for value in node.inputs[:1] if value is not None)
            elif is_op(node, "Attention") and len(node.inputs) > 3 and node.inputs[3] is not None:
                pending.append(node.inputs[3])
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is None:
            if value.is_graph_input() and is_float(value):
                found.add(value)
        elif producer.op_type in _TO_SCORES:
            pending.extend(each for each in producer.inputs if each is not None and is_float(each))
    return found
