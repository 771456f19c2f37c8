"""Chains of products as fp32 and as int8 graphs, for which it is known which of the two is faster."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper


class Chain:
    """A graph that grows product by product; with `quantized`, each product stands between Q/DQ pairs."""

    def __init__(self, shape: list[int | str], *, quantized: bool) -> None:
        self.shape = shape
        self.quantized = quantized
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)
        self.value = "x"

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, inputs: list[str], *, name: str = "", **attributes: object) -> str:
        label = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"{label}_out"], name=label, **attributes))
        return f"{label}_out"

    def pair(self, value: str) -> str:
        """Return the value after a QuantizeLinear and a DequantizeLinear."""
        scale, zero = self.constant(np.float32(0.05)), self.constant(np.uint8(128))
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [value, scale, zero]), scale, zero])

    def weight(self, shape: tuple[int, ...], axis: int) -> str:
        codes = self.random.integers(-127, 128, shape).astype(np.int8)
        scales = np.full(shape[axis], 0.5 / 127 / np.sqrt(np.prod(shape) / shape[axis]), np.float32)
        if not self.quantized:
            return self.constant(codes.astype(np.float32) * scales[0])
        zeros = self.constant(np.zeros(shape[axis], np.int8))
        return self.node("DequantizeLinear", [self.constant(codes), self.constant(scales), zeros], axis=axis)

    def product(self, op_type: str, name: str, shape: tuple[int, ...], *, axis: int, closed: bool = True) -> None:
        """Add a product with weights of `shape`; not `closed`, nothing quantizes its result."""
        data = self.pair(self.value) if self.quantized else self.value
        self.value = self.node(op_type, [data, self.weight(shape, axis)], name=name)
        if self.quantized and closed:
            self.value = self.pair(self.value)

    def float_step(self, op_type: str, **attributes: object) -> None:
        self.value = self.node(op_type, [self.value], **attributes)

    def lstm(self, name: str, hidden: int) -> None:
        """Add a recurrence over [T, B, hidden], its weights between Q/DQ too."""
        data = self.pair(self.value) if self.quantized else self.value
        weights = [self.weight((1, 4 * hidden, hidden), 0) for _ in range(2)]
        every = self.node("LSTM", [data, *weights], name=name, hidden_size=hidden)
        self.value = self.node("Squeeze", [every, self.constant(np.array([1], np.int64))])

    def model(self) -> ir.Model:
        self.nodes.append(helper.make_node("Identity", [self.value], ["y"], name="last"))
        graph = helper.make_graph(
            self.nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def slow_convolutions(*, quantized: bool, count: int = 12) -> ir.Model:
    """Convolutions read by a float Abs each: in int8, ONNX Runtime does the same work in float, and Q/DQ besides."""
    chain = Chain([1, 16, 32, 32], quantized=quantized)
    for index in range(count):
        chain.product("Conv", f"conv_{index}", (16, 16, 1, 1), axis=0, closed=False)
        chain.float_step("Abs")
    return chain.model()


def fast_products(*, quantized: bool, count: int = 4) -> ir.Model:
    """Large matrix products, one after another: int8 has a quarter of the weights to read and VNNI to multiply."""
    chain = Chain([64, 1024], quantized=quantized)
    for index in range(count):
        chain.product("MatMul", f"matmul_{index}", (1024, 1024), axis=1)
    return chain.model()


def recurrence(*, quantized: bool, steps: int = 20, hidden: int = 64) -> ir.Model:
    """An LSTM over [T, 1, hidden], which no CPU runtime takes in int8 as Q/DQ."""
    chain = Chain([steps, 1, hidden], quantized=quantized)
    chain.lstm("lstm", hidden)
    return chain.model()
