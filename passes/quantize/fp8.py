"""fp8: products of e4m3 numbers behind explicit Q/DQ (Micikevicius et al. 2022, arXiv 2209.05433)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.base import Context, Pass, PassResult
from passes.editing import Editor
from passes.errors import UsageError
from passes.quantize.fp8_weights import GREATEST, fp8_weight
from passes.quantize.scheme import LEAST_SCALE, Granularity, check_ranges
from passes.quantize.weighted import Weight, is_constant, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.ranges import ActivationRange

_LEAST_OPSET = 19
"""QuantizeLinear and DequantizeLinear take float8 from this opset on."""


@dataclass(frozen=True)
class QuantizeFp8(Pass):
    """Multiply in fp8 e4m3: weights stored so, activations rounded so, behind explicit Q/DQ.

    An activation has one scale, by which the greatest magnitude seen in calibration becomes 448, e4m3's greatest;
    larger ones are clipped to it. A weight has a scale for each output channel, chosen for the least squared
    error. Which operators take part is told by the runtime's capabilities. An operator stays as it is, with the
    reason, when its input has no range or its weight is computed, tiny or not finite.
    granularity: one weight scale a channel, or one a tensor.
    """

    name: ClassVar[str] = "quantize-fp8"
    optional: ClassVar[bool] = False

    granularity: Granularity = "channel"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Quantize the main graph; raises UsageError without ranges, fp8 kernels or opset 19."""
        operators = context.capabilities.fp8_operators
        _check(model, context)
        recorder = context.recorder(self.name)
        if any(value.dtype is None for node in model.graph for value in node.outputs):
            from onnx_ir.passes.common import ShapeInferencePass

            ShapeInferencePass()(model)
        writer = _Writer(Editor(model), self.granularity)
        for node in list(model.graph):
            if node.op_type not in operators or node.domain not in ("", "ai.onnx"):
                continue
            weight = weight_of(node)
            reason = _obstacle(weight, context)
            if reason:
                recorder.refuse(node, reason, f"fp8 {node.op_type}")
            elif weight is not None and recorder.may_apply(node, f"fp8 {node.op_type}"):
                source = node.inputs[1 - weight.index]
                assert source is not None
                writer.write(weight, source, context.ranges[str(source.name)])
        return recorder.result()


def _check(model: ir.Model, context: Context) -> None:
    if not context.capabilities.fp8_operators:
        raise UsageError(
            f"{context.capabilities.name} has no fp8 products, so there is nothing to quantize for it.",
            hint="Quantize for a target that runs fp8, such as tensorrt:sm=89, or build another precision.",
        )
    check_ranges(model, context, name=QuantizeFp8.name, least_opset=_LEAST_OPSET)


def _obstacle(weight: Weight | None, context: Context) -> str:
    """Return why the operator stays as it is, or nothing."""
    if weight is None:
        return "its weight is not constant"
    if problem := weight.problem():
        return problem
    source = weight.node.inputs[1 - weight.index]
    if source is None or is_constant(source):
        return "its operands are constants"
    if source.dtype is not None and source.dtype.name != "FLOAT":
        return f"its input '{source.name}' is {source.dtype.name.lower()}; fp8 starts from float32"
    if str(source.name) not in context.ranges:
        return f"its input '{source.name}' has no calibrated range"
    return ""


class _Writer:
    """Writes Q/DQ pairs into one graph; a value or weight gets one, however many operators read it."""

    def __init__(self, editor: Editor, granularity: Granularity) -> None:
        self.editor = editor
        self.granularity = granularity
        self._activations: dict[ir.Value, ir.Value] = {}
        self._weights: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def write(self, weight: Weight, source: ir.Value, covered: ActivationRange) -> None:
        """Let the operator of `weight` read `source` and its weight through fp8."""
        node = weight.node
        if source not in self._activations:
            self._activations[source] = self._activation(source, covered, node)
        node.replace_input_with(1 - weight.index, self._activations[source])
        key = (weight.value, weight.axis if self.granularity == "channel" else None)
        if key not in self._weights:
            self._weights[key] = self._weight(weight, key[1])
        node.replace_input_with(weight.index, self._weights[key])
        self.editor.drop_constant(weight.value)

    def _activation(self, source: ir.Value, covered: ActivationRange, before: ir.Node) -> ir.Value:
        import ml_dtypes
        import onnx_ir as ir

        peak = max(-covered.observed_low, covered.observed_high, 0.0)
        step = np.asarray(max(peak / GREATEST, LEAST_SCALE), np.float32)
        scale = self.editor.constant(step, f"{source.name}_fp8_scale")
        zero = self.editor.constant(np.zeros((), ml_dtypes.float8_e4m3fn), "fp8_zero")
        name = f"{source.name}_fp8"
        code = self.editor.insert(
            before,
            "QuantizeLinear",
            [source, scale, zero],
            name=name,
            like=source,
            dtype=ir.DataType.FLOAT8E4M3FN,
        )
        return self.editor.insert(before, "DequantizeLinear", [code, scale, zero], name=f"{name}_real", like=source)

    def _weight(self, weight: Weight, axis: int | None) -> ir.Value:
        import ml_dtypes
        import onnx_ir as ir

        codes, steps = fp8_weight(weight.array(), axis=axis)
        name = f"{weight.value.name}_fp8"
        operands = (
            self.editor.constant(codes, name),
            self.editor.constant(steps, f"{name}_scale"),
            self.editor.constant(np.zeros(steps.shape, ml_dtypes.float8_e4m3fn), f"{name}_zero"),
        )
        return self.editor.insert(
            weight.node,
            "DequantizeLinear",
            operands,
            name=f"{name}_real",
            attributes={} if axis is None else {"axis": axis},
            dtype=ir.DataType.FLOAT,
            shape=codes.shape,
        )
