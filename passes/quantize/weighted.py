"""The constant weight and bias of an operator that multiplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

LEAST_ELEMENTS = 64
"""Smaller weights stay in float: converting the activation costs more than int8 saves."""

_BIAS_INDEX = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True, slots=True)
class Weight:
    """A constant operand: its position, its value, and the axis that runs over the operator's output channels."""

    node: ir.Node
    index: int
    value: ir.Value
    tensor: ir.TensorProtocol
    axis: int | None

    def problem(self) -> str:
        """Return why it can't become int8, or nothing."""
        import onnx_ir as ir

        if self.tensor.dtype != ir.DataType.FLOAT:
            return f"its weight '{self.value.name}' is {self.tensor.dtype.name.lower()}; int8 starts from float32"
        if self.tensor.size < LEAST_ELEMENTS:
            return f"its weight '{self.value.name}' has only {self.tensor.size} elements"
        if not np.isfinite(self.array()).all():
            return f"its weight '{self.value.name}' has entries that are not finite"
        return ""

    def has_rows(self) -> bool:
        """Return whether it is the right operand [K, N], or its transpose, of a plain matrix product."""
        is_right = self.node.op_type in ("MatMul", "Gemm") and self.index == 1 and len(self.tensor.shape) == 2
        return is_right and not self.node.attributes.get_int("transA", 0)

    def rows(self) -> npt.NDArray[np.floating] | None:
        """Return a matrix product's right operand as [K, N]; None for any other weight."""
        if not self.has_rows():
            return None
        return self.array().T if self.node.attributes.get_int("transB", 0) else self.array()

    def array(self) -> npt.NDArray[np.floating]:
        """Return the weight, read from its file only now."""
        return np.asarray(self.tensor.numpy())


def is_constant(value: ir.Value) -> bool:
    """Return whether the value is fixed: an initializer that is no input, or a Constant node's output."""
    import onnx_ir as ir

    return ir.convenience.get_const_tensor(value) is not None and not value.is_graph_input()


def weight_of(node: ir.Node) -> Weight | None:
    """Return the one constant operand of a Conv, ConvTranspose, Gemm or MatMul; None when none or both are constant."""
    import onnx_ir as ir

    positions = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1)}.get(node.op_type, ())
    found: list[Weight] = []
    for index in positions:
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or not is_constant(value):
            continue
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        found.append(Weight(node, index, value, tensor, _channel_axis(node, index, len(tensor.shape))))
    return found[0] if len(found) == 1 else None


def bias_of(node: ir.Node) -> npt.NDArray[np.floating] | None:
    """Return the constant bias [channels] of a Conv, ConvTranspose or Gemm; None when it has none or it is computed."""
    import onnx_ir as ir

    index = _BIAS_INDEX.get(node.op_type)
    value = node.inputs[index] if index is not None and index < len(node.inputs) else None
    if value is None or not is_constant(value):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None or len(tensor.shape) != 1 else np.asarray(tensor.numpy())


def _channel_axis(node: ir.Node, index: int, rank: int) -> int | None:
    """Return the weight's axis over output channels; None when one scale must do for all."""
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if node.attributes.get_int("group", 1) == 1 else None
        case "Gemm":
            return 0 if node.attributes.get_int("transB", 0) else 1
        case _:
            return 1 if index == 1 and rank == 2 else None
