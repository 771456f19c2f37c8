"""Writing a placement into the graph: Q/DQ pairs on activations, int8 weights and biases behind DequantizeLinear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.scheme import QuantParameters, QuantScheme, activation_parameters
from passes.quantize.smoothing import Smoothing, best_smoothing
from passes.quantize.weighted import Weight, bias_of, weight_of
from passes.quantize.weights import QuantizedWeight, quantize_weight

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.quantize.placement import Placement
    from passes.quantize.ranges import ActivationRange

_BIAS_CODES = 2**30
"""Largest int32 bias code that is planned for; a channel's scale grows until its bias fits."""


class Insertion:
    """Edits one graph. Each value, weight and scale gets one Q/DQ, however many operators read it."""

    def __init__(
        self, graph: ir.Graph, scheme: QuantScheme, ranges: Mapping[str, ActivationRange], recorder: Recorder
    ) -> None:
        self.graph = graph
        self.scheme = scheme
        self.ranges = ranges
        self.recorder = recorder
        self._names = {value.name for value in _all_values(graph)}
        self._weights: dict[tuple[ir.Value, int | None, ir.Value | None], tuple[ir.Value, QuantizedWeight]] = {}
        self._smoothings: dict[ir.Value, Smoothing] = {}
        self._parameters: dict[ir.Value, QuantParameters] = {}

    def write(self, placement: Placement) -> None:
        """Insert everything that `placement` asks for, and drop the float weights that nobody reads any more."""
        for value, source in placement.scale_source.items():
            covered = self.ranges[str(source.name)]
            smoothing = self._smoothing(value, list(placement.readers[value])) if value is source else None
            if smoothing is not None:
                self._smoothings[value] = smoothing
                covered = smoothing.covered
            self._parameters[value] = activation_parameters(covered, self.scheme)
        for node in placement.operators:
            weight = weight_of(node)
            if weight is not None and weight.tensor is not None:
                self._write_weight(node, weight)
        for value, readers in placement.readers.items():
            self._write_activation(value, list(readers))

    def _smoothing(self, value: ir.Value, readers: list[tuple[ir.Node, int]]) -> Smoothing | None:
        """Return how to even out the channels of `value`, when matrix products alone read its codes."""
        if not self.scheme.smooth:
            return None
        weights: list[npt.NDArray[np.floating]] = []
        for node, index in readers:
            weight = weight_of(node)
            if weight is None or (rows := weight.rows()) is None or index == weight.index:
                return None
            weights.append(rows)
        return best_smoothing(self.ranges[str(value.name)], weights, symmetric=self.scheme.symmetric)

    def _write_activation(self, value: ir.Value, readers: list[tuple[ir.Node, int]]) -> None:
        import onnx_ir as ir

        parameters = self._parameters[value]
        after = value.producer()
        if (smoothing := self._smoothings.get(value)) is not None:
            inverse = self._constant(f"{value.name}_smoothing", (1 / smoothing.factors).astype(np.float32))
            smooth = self._value(f"{value.name}_smoothed", ir.DataType.FLOAT, value.shape)
            self._insert(after, ir.Node("", "Mul", [value, inverse], outputs=[smooth], name=f"{smooth.name}_node"))
            value, after = smooth, smooth.producer()
        scale = self._constant(f"{value.name}_scale", np.asarray(parameters.scale, np.float32))
        zero = self._constant(f"{value.name}_zero_point", np.asarray(parameters.zero_point, parameters.dtype))
        code_type = ir.DataType.UINT8 if parameters.dtype == "uint8" else ir.DataType.INT8
        code = self._value(f"{value.name}_quantized", code_type, value.shape)
        real = self._value(f"{value.name}_dequantized", ir.DataType.FLOAT, value.shape)
        quantize = ir.Node("", "QuantizeLinear", [value, scale, zero], outputs=[code], name=f"{code.name}_node")
        dequantize = ir.Node("", "DequantizeLinear", [code, scale, zero], outputs=[real], name=f"{real.name}_node")
        self._insert(after, quantize, dequantize)
        for node, index in readers:
            node.replace_input_with(index, real)

    def _insert(self, after: ir.Node | None, *nodes: ir.Node) -> None:
        """Insert `nodes` behind the producer `after`, or at the start for an input's readers."""
        if after is not None:
            self.graph.insert_after(after, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def _write_weight(self, node: ir.Node, weight: Weight) -> None:

        has_channels = node.op_type in self.scheme.support.per_channel_operators
        axis = weight.axis if has_channels and self.scheme.granularity == "channel" else None
        bias = bias_of(node) if self.scheme.support.bias == "int32" else None
        source = node.inputs[1 - weight.index]
        assert source is not None
        smoothing = self._smoothings.get(source)
        key = (weight.value, axis, source if smoothing is not None else None)
        if key not in self._weights:
            array = weight.array()
            if smoothing is not None:
                array = array * np.expand_dims(smoothing.factors, axis=weight.axis or 0)
            least = self._least_scale(node, array, axis, bias, source)
            quantized = quantize_weight(array, axis=axis, magnitude=self.scheme.weight_magnitude, least_scale=least)
            codes = self._constant(f"{weight.value.name}_quantized", quantized.codes)
            scale = self._constant(f"{weight.value.name}_scale", quantized.scale)
            zero = self._constant(f"{weight.value.name}_zero_point", np.zeros(quantized.scale.shape, np.int8))
            self._weights[key] = (self._dequantize(node, codes, scale, zero, quantized.axis), quantized)
        real, quantized = self._weights[key]
        node.replace_input_with(weight.index, real)
        self._drop_if_unread(weight.value)
        if bias is not None:
            self._write_bias(node, bias, quantized, source)

    def _least_scale(
        self,
        node: ir.Node,
        weight: npt.NDArray[np.floating],
        axis: int | None,
        bias: npt.NDArray[np.floating] | None,
        source: ir.Value,
    ) -> npt.NDArray[np.float32] | None:
        """Return the weight scale that each channel needs at least for its int32 bias not to overflow."""
        if bias is None or source not in self._parameters:
            return None
        channels = 1 if axis is None else weight.shape[axis]
        peaks = np.abs(bias).max(initial=0.0) if channels != bias.size else np.abs(bias)
        return np.asarray(
            np.broadcast_to(peaks / (_BIAS_CODES * self._parameters[source].scale), (channels,)), np.float32
        )

    def _write_bias(
        self, node: ir.Node, bias: npt.NDArray[np.floating], weight: QuantizedWeight, source: ir.Value
    ) -> None:
        original = node.inputs[2]
        assert original is not None
        if source not in self._parameters or (weight.scale.size not in (1, bias.size)):
            return
        if node.op_type == "Gemm" and (
            node.attributes.get_float("beta", 1.0),
            node.attributes.get_float("alpha", 1.0),
        ) != (1.0, 1.0):
            self.recorder.refuse(node, "its bias stays float: alpha or beta is not 1", "int32 bias")
            return
        scale = (weight.scale.astype(np.float64) * self._parameters[source].scale).astype(np.float32)
        codes = np.clip(np.rint(bias / scale), -(2**31), 2**31 - 1).astype(np.int32)
        name = f"{node.outputs[0].name}_bias"
        real = self._dequantize(
            node,
            self._constant(f"{name}_quantized", codes),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero_point", np.zeros(scale.shape, np.int32)),
            0 if scale.ndim else None,
        )
        node.replace_input_with(2, real)
        self._drop_if_unread(original)

    def _dequantize(
        self, before: ir.Node, codes: ir.Value, scale: ir.Value, zero: ir.Value, axis: int | None
    ) -> ir.Value:
        import onnx_ir as ir

        real = self._value(str(codes.name).removesuffix("_quantized") + "_dequantized", ir.DataType.FLOAT, codes.shape)
        attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
        node = ir.Node(
            "", "DequantizeLinear", [codes, scale, zero], attributes, outputs=[real], name=f"{real.name}_node"
        )
        self.graph.insert_before(before, [node])
        return real

    def _drop_if_unread(self, value: ir.Value) -> None:
        if any(True for _ in value.uses()) or value.is_graph_output():
            return
        name = str(value.name)
        if name in self.graph.initializers:
            del self.graph.initializers[name]
        elif (producer := value.producer()) is not None:
            self.graph.remove(producer, safe=True)

    def _constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        import onnx_ir as ir

        tensor = ir.Tensor(array)
        value = self._value(name, tensor.dtype, ir.Shape(array.shape))
        tensor.name = value.name
        value.const_value = tensor
        self.graph.register_initializer(value)
        return value

    def _value(self, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> ir.Value:
        import onnx_ir as ir

        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return ir.Value(name=unique, type=ir.TensorType(dtype), shape=shape)


def _all_values(graph: ir.Graph) -> list[ir.Value]:
    outputs = [value for node in graph.all_nodes() for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *outputs]
