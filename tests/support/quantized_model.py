"""A small int8 graph whose parts are known to run in int8, and in float, on each runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper


def quantized_model(*, weight_only: bool = False) -> ir.Model:
    """Return image [batch, 8, 8, 8] -> conv_chained, conv_open, softmax, pool, gemm_chained -> scores [batch, 10].

    conv_chained and gemm_chained stand between DequantizeLinear and QuantizeLinear; nothing quantizes conv_open's
    output. With `weight_only` the activations stay float everywhere.
    """
    builder = _Builder(weight_only)
    x = builder.activation("image")
    x = builder.node("Conv", [x, builder.weight("w1", (8, 8, 3, 3))], "conv_chained", pads=[1, 1, 1, 1])
    x = builder.activation(x)
    x = builder.node("Conv", [x, builder.weight("w2", (8, 8, 3, 3))], "conv_open", pads=[1, 1, 1, 1])
    x = builder.node("Softmax", [x], "softmax", axis=1)
    x = builder.node("GlobalAveragePool", [x], "pool")
    x = builder.node("Flatten", [x], "flatten")
    x = builder.activation(x)
    x = builder.node("Gemm", [x, builder.weight("w3", (10, 8))], "gemm_chained", transB=1)
    x = builder.activation(x)
    builder.nodes.append(helper.make_node("Identity", [x], ["scores"], name="last"))
    graph = helper.make_graph(
        builder.nodes,
        "quantized",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        builder.initializers,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


class _Builder:
    def __init__(self, weight_only: bool) -> None:
        self.weight_only = weight_only
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, name: str, array: np.ndarray) -> str:
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def activation(self, value: str) -> str:
        if self.weight_only:
            return value
        scale = self.constant(f"{value}_scale", np.float32(0.05))
        zero = self.constant(f"{value}_zero", np.uint8(128))
        quantized = self.node("QuantizeLinear", [value, scale, zero], f"{value}_quantize")
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{value}_dequantize")

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        quantized = self.constant(name, self.random.integers(-127, 128, shape).astype(np.int8))
        scale = self.constant(f"{name}_scale", np.full(shape[0], 0.01, np.float32))
        zero = self.constant(f"{name}_zero", np.zeros(shape[0], np.int8))
        return self.node("DequantizeLinear", [quantized, scale, zero], f"{name}_dequantize", axis=0)
