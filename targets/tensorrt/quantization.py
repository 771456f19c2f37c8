"""What TensorRT refuses, or computes otherwise than ONNX says, in QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_TAKEN = frozenset({"INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"})
_REASONS: dict[str, str] = {
    "UINT8": "uint8 is computed as int8 by TensorRT, which clips the upper half of the range: use int8",
    "INT32": "an int32 bias is not taken: keep the bias in float",
}


def quantization_faults(node: ir.Node) -> Iterator[str]:
    """Yield what is wrong with a Q or DQ node; nothing for another operator."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return
    kind = quantized_type(node)
    if kind is not None and kind.name not in _TAKEN:
        yield _REASONS.get(kind.name, f"TensorRT does not quantize to {kind.name}: use int8")
    yield from _zero_point_faults(node)
    yield from _scale_faults(node)


def quantized_type(node: ir.Node) -> ir.DataType | None:
    """Return the low-precision side's type: a Q's output, a DQ's input. ONNX's default for a bare Q is uint8."""
    import onnx_ir as ir

    low = (node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]) if node.outputs else None
    if low is not None and low.dtype is not None:
        return low.dtype
    zero_point = _input(node, 2)
    if zero_point is not None:
        tensor = ir.convenience.get_const_tensor(zero_point)
        return tensor.dtype if tensor is not None else zero_point.dtype
    if node.op_type == "DequantizeLinear":
        return None
    return ir.DataType(node.attributes.get_int("output_dtype", ir.DataType.UINT8.value) or ir.DataType.UINT8.value)


def _zero_point_faults(node: ir.Node) -> Iterator[str]:
    import numpy as np
    import onnx_ir as ir

    zero_point = _input(node, 2)
    if zero_point is None:
        return
    tensor = ir.convenience.get_const_tensor(zero_point)
    if tensor is None:
        yield "its zero point is computed; TensorRT takes only the constant 0"
    elif np.any(tensor.numpy().astype(np.float32) != 0):
        yield "its zero point is not 0; TensorRT takes only symmetric quantization"


def _scale_faults(node: ir.Node) -> Iterator[str]:
    import numpy as np
    import onnx_ir as ir

    scale = _input(node, 1)
    tensor = ir.convenience.get_const_tensor(scale) if scale is not None else None
    if tensor is None:
        return
    values = tensor.numpy().astype(np.float32)
    if not np.all(np.isfinite(values) & (values > 0)):
        yield "its scale is not positive and finite everywhere"


def _input(node: ir.Node, position: int) -> ir.Value | None:
    return node.inputs[position] if len(node.inputs) > position else None
