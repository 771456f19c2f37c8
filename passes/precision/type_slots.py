"""Which inputs and outputs of an operator may be half precision, from the standard's own table of types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

_SPELLING = {"FLOAT16": "tensor(float16)", "BFLOAT16": "tensor(bfloat16)"}


@dataclass(frozen=True, slots=True)
class Slots:
    """For each input and output whether it may be half precision; what lies beyond the last repeats it."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]

    def takes(self, index: int) -> bool:
        """Return whether input `index` may be half precision."""
        return bool(self.inputs) and self.inputs[min(index, len(self.inputs) - 1)]

    def gives(self, index: int) -> bool:
        """Return whether output `index` may be half precision."""
        return bool(self.outputs) and self.outputs[min(index, len(self.outputs) - 1)]


@lru_cache(maxsize=1024)
def slots_of(op_type: str, opset: int, half: str) -> Slots | None:
    """Return the slots of a standard operator as of `opset`; None for an operator that the standard lacks."""
    import onnx

    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    allowed = {each.type_param_str: set(each.allowed_type_strs) for each in schema.type_constraints}

    def may_be(parameter: Any) -> bool:
        return _SPELLING[half] in allowed.get(parameter.type_str, {parameter.type_str})

    return Slots(tuple(map(may_be, schema.inputs)), tuple(map(may_be, schema.outputs)))


def refusal(node: ir.Node, slots: Slots | None, *, opset: int, half: str) -> str:
    """Return why none of the node's float32 inputs and outputs may be half precision, or nothing."""
    if slots is None:
        return f"opset {opset} has no operator {node.op_type}"
    inputs = [slots.takes(index) for index, value in enumerate(node.inputs) if is_float(value)]
    outputs = [slots.gives(index) for index, value in enumerate(node.outputs) if is_float(value)]
    data = inputs[:1] + outputs[:1]
    return "" if data and all(data) else f"{node.op_type} of opset {opset} does not take {half.lower()}"


def is_float(value: ir.Value | None) -> bool:
    """Return whether the value is a tensor of float32, float16 or bfloat16."""
    import onnx_ir as ir

    kinds = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype in kinds
