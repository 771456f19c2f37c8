"""Which operators stay in float32 when a graph is computed in half precision, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.quantize.ranges import ActivationRange

_SUMS = "it sums many terms, which overflows or loses digits in half precision"
_STEEP = "its result grows or falls too steeply for half precision"
_INDICES = "it makes numbers from integers that half precision can't count"
_FIXED = "its operands are float32 by definition"

_OPERATORS: tuple[tuple[str, str], ...] = (
    ("LayerNormalization RMSNormalization GroupNormalization InstanceNormalization LpNormalization", _SUMS),
    ("MeanVarianceNormalization ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum", _SUMS),
    ("ReduceLogSumExp ReduceProd CumSum Softmax LogSoftmax LpPool GlobalLpPool", _SUMS),
    ("Exp Log Pow Reciprocal Softplus Tan Sinh Cosh Acosh Atanh", _STEEP),
    ("Range OneHot ConstantOfShape EyeLike HannWindow HammingWindow BlackmanWindow", _INDICES),
    ("QuantizeLinear DequantizeLinear DynamicQuantizeLinear NonMaxSuppression DFT STFT MelWeightMatrix", _FIXED),
)

KEPT_FLOAT32: Mapping[str, str] = {name: reason for names, reason in _OPERATORS for name in names.split()}
"""Operator -> reason. With calibrated ranges, every operator whose values would not fit is added."""

INFINITE_FROM = 1e30
"""A constant of this magnitude or more means infinity (a mask): half precision says that with its largest number."""

_HEADROOM = 0.5


def reason_for_float32(node: ir.Node, *, greatest: float, ranges: Mapping[str, ActivationRange]) -> str:
    """Return why `node` must compute in float32, or nothing; `greatest` is the largest finite number of the type."""
    import onnx_ir as ir

    if node.domain not in ("", "ai.onnx"):
        return f"it belongs to the domain {node.domain}, whose types are not known here"
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        return "it has a subgraph, which stays as it is"
    if node.op_type in KEPT_FLOAT32:
        return KEPT_FLOAT32[node.op_type]
    for value in (*node.inputs, *node.outputs):
        if value is None:
            continue
        seen = ranges.get(str(value.name))
        peak = max(-seen.observed_low, seen.observed_high) if seen is not None else 0.0
        if peak > _HEADROOM * greatest:
            return f"'{value.name}' reaches {peak:.3g} in the calibration data"
    for value in node.inputs:
        peak = _constant_peak(value) if value is not None else 0.0
        if peak > greatest:
            return f"its constant '{value.name if value is not None else ''}' holds {peak:.3g}"
    return ""


def _constant_peak(value: ir.Value) -> float:
    """Return the greatest magnitude of a constant, stand-ins for infinity left out; 0 for what is computed."""
    import onnx_ir as ir

    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or value.is_graph_input() or tensor.dtype != ir.DataType.FLOAT:
        return 0.0
    magnitudes = np.abs(np.asarray(tensor.numpy()))
    return float(magnitudes.max(initial=0.0, where=magnitudes < INFINITE_FROM))
