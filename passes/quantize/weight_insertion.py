"""Writing int8 weights, and the biases that go with them, into the graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.bias_correction import added_bias, mean_shift
from passes.quantize.weighted import Weight, bias_of, weight_of
from passes.quantize.weights import QuantizedWeight, dequantize_weight, quantize_weight

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.quantize.editing import GraphEditor
    from passes.quantize.ranges import ActivationRange
    from passes.quantize.scheme import QuantParameters, QuantScheme
    from passes.quantize.smoothing import Smoothing

    Floats = npt.NDArray[np.floating]

_BIAS_CODES = 2**30
"""Largest int32 bias code that is planned for; a channel's scale grows until its bias fits."""


class WeightInsertion:
    """Quantizes the weights of one graph, each once, however many operators read it."""

    def __init__(
        self,
        editor: GraphEditor,
        scheme: QuantScheme,
        ranges: Mapping[str, ActivationRange],
        parameters: Mapping[ir.Value, QuantParameters],
        smoothings: Mapping[ir.Value, Smoothing],
        recorder: Recorder,
    ) -> None:
        self.editor = editor
        self.scheme = scheme
        self.ranges = ranges
        self.parameters = parameters
        self.smoothings = smoothings
        self.recorder = recorder
        self._written: dict[tuple[ir.Value, int | None, ir.Value | None], tuple[ir.Value, QuantizedWeight]] = {}

    def write(self, node: ir.Node) -> None:
        """Quantize the constant weight of `node`, correct its bias, and make the bias int32 if the scheme wants that.

        Call it before the activations are rewired: the calibrated ranges go by the original names.
        """
        weight = weight_of(node)
        if weight is None:
            return
        source = node.inputs[1 - weight.index]
        assert source is not None
        array = self._smoothed(weight, source)
        bias = self._foldable_bias(node, array)
        real, quantized = self._quantized(weight, array, bias, source)
        node.replace_input_with(weight.index, real)
        self.editor.drop_if_unread(weight.value)
        shift = self._shift(weight, array, quantized, source)
        if bias is not None:
            self._write_bias(node, bias, shift, quantized, source)
        elif shift is not None:
            self._correct_added_bias(node, shift)

    def _smoothed(self, weight: Weight, source: ir.Value) -> Floats:
        smoothing = self.smoothings.get(source)
        array = weight.array()
        if smoothing is None:
            return array
        assert weight.axis is not None
        return np.asarray(array * np.expand_dims(smoothing.factors, axis=weight.axis))

    def _quantized(
        self, weight: Weight, array: Floats, bias: Floats | None, source: ir.Value
    ) -> tuple[ir.Value, QuantizedWeight]:
        has_channels = weight.node.op_type in self.scheme.support.per_channel_operators
        axis = weight.axis if has_channels and self.scheme.granularity == "channel" else None
        key = (weight.value, axis, source if source in self.smoothings else None)
        if key not in self._written:
            quantized = quantize_weight(
                array,
                axis=axis,
                magnitude=self.scheme.weight_magnitude,
                least_scale=self._least_scale(array, axis, bias, source),
            )
            name = str(weight.value.name)
            real = self.editor.dequantized(name, weight.node, quantized.codes, quantized.scale, axis=quantized.axis)
            self._written[key] = (real, quantized)
        return self._written[key]

    def _least_scale(
        self, array: Floats, axis: int | None, bias: Floats | None, source: ir.Value
    ) -> npt.NDArray[np.float32] | None:
        """Return the weight scale that each channel needs at least for its int32 bias not to overflow."""
        if bias is None or self.scheme.support.bias != "int32" or source not in self.parameters:
            return None
        channels = 1 if axis is None else array.shape[axis]
        peaks = np.abs(bias) if channels == bias.size else np.abs(bias).max(initial=0.0)
        least = peaks / (_BIAS_CODES * self.parameters[source].scale)
        return np.asarray(np.broadcast_to(least, (channels,)), np.float32)

    def _foldable_bias(self, node: ir.Node, array: Floats) -> Floats | None:
        """Return the bias [channels]; zeros for a Conv without one, None where the operator can't take a new one."""
        has_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        if node.op_type == "Conv" and not has_bias:
            return np.zeros(array.shape[0], np.float32)
        scaled = (node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)) != (1.0, 1.0)
        if node.op_type == "Gemm" and scaled:
            self.recorder.refuse(node, "its bias stays as it is: alpha or beta is not 1", "bias")
            return None
        return bias_of(node)

    def _shift(self, weight: Weight, array: Floats, quantized: QuantizedWeight, source: ir.Value) -> Floats | None:
        covered = self.ranges.get(str(source.name))
        if not self.scheme.correct_bias or covered is None or covered.channels is None:
            return None
        mean = np.asarray(covered.channels.mean)
        if source in self.smoothings:
            mean = mean / self.smoothings[source].factors
        return mean_shift(weight, dequantize_weight(quantized) - array, mean)

    def _correct_added_bias(self, product: ir.Node, shift: Floats) -> None:
        """Take `shift` off the constant that an Add or Sum puts on a MatMul; a MatMul without one stays as it is."""
        import onnx_ir as ir

        if product.op_type != "MatMul" or (found := added_bias(product)) is None:
            return
        addition, position = found
        operand = addition.inputs[position]
        assert operand is not None
        tensor = ir.convenience.get_const_tensor(operand)
        if (
            tensor is None
            or tensor.dtype != ir.DataType.FLOAT
            or tensor.numpy().shape[-1:] not in ((), (1,), shift.shape)
        ):
            return
        corrected = np.asarray(tensor.numpy() - shift, np.float32)
        addition.replace_input_with(position, self.editor.constant(f"{product.outputs[0].name}_bias", corrected))
        self.editor.drop_if_unread(operand)

    def _write_bias(
        self, node: ir.Node, bias: Floats, shift: Floats | None, weight: QuantizedWeight, source: ir.Value
    ) -> None:
        had_bias = len(node.inputs) > 2 and node.inputs[2] is not None
        original = node.inputs[2] if had_bias else None
        is_shifted = False
        if shift is not None and shift.size == bias.size:
            is_shifted = True
            bias = np.asarray(bias - shift, np.float32)
        is_integer = (
            self.scheme.support.bias == "int32" and source in self.parameters and weight.scale.size in (1, bias.size)
        )
        if not (is_shifted or (is_integer and had_bias)):
            return
        name = f"{node.outputs[0].name}_bias"
        if is_integer:
            scale = (weight.scale.astype(np.float64) * self.parameters[source].scale).astype(np.float32)
            codes = np.clip(np.rint(bias / scale), -(2**31), 2**31 - 1).astype(np.int32)
            new = self.editor.dequantized(name, node, codes, scale, axis=0 if scale.ndim else None)
        else:
            new = self.editor.constant(name, bias)
        if len(node.inputs) > 2:
            node.replace_input_with(2, new)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, new)
        if original is not None:
            self.editor.drop_if_unread(original)
