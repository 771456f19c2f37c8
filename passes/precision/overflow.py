"""Which operators stay in float32 when a graph is computed in half precision, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.matching import constant_tensor, is_op
from passes.quantize.weighted import weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.precision.half_tensors import Constants, Magnitudes
    from passes.quantize.ranges import ActivationRange

_SUMS = "it sums many terms, which overflows or loses digits in half precision"
_STEEP = "its result grows or falls too steeply for half precision"
_ANGLES = "its argument may be many turns, of which half precision keeps no fraction"
_PLACES = "its operands are places, which half precision can't tell apart"
_INDICES = "it makes numbers from integers that half precision can't count"
_FIXED = "its operands are float32 by definition"
_TYPED = "its attributes say that it makes float32"

_OPERATORS: tuple[tuple[str, str], ...] = (
    ("LayerNormalization RMSNormalization GroupNormalization InstanceNormalization LpNormalization", _SUMS),
    ("BatchNormalization MeanVarianceNormalization LRN ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceSumSquare", _SUMS),
    ("ReduceLogSum ReduceLogSumExp ReduceProd CumSum Softmax LogSoftmax LpPool GlobalLpPool GlobalAveragePool", _SUMS),
    ("SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss", _SUMS),
    ("Exp Log Pow Reciprocal Softplus Tan Sinh Cosh Acosh Atanh", _STEEP),
    ("Sin Cos Mod", _ANGLES),
    ("GridSample RoiAlign MaxRoiPool AffineGrid Det", _PLACES),
    ("Range OneHot ConstantOfShape EyeLike HannWindow HammingWindow BlackmanWindow", _INDICES),
    ("QuantizeLinear DequantizeLinear DynamicQuantizeLinear NonMaxSuppression DFT STFT MelWeightMatrix", _FIXED),
    ("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial CastLike", _TYPED),
)

KEPT_FLOAT32: Mapping[str, str] = {name: reason for names, reason in _OPERATORS for name in names.split()}
"""Operator -> reason. What ranges and constants show of a node is added to that."""

_SQUARE = "it squares its input, which overflows from 256 on"
_DENOMINATOR = "it divides by a computed number, which may be too small for float16"
_HEADROOM = 0.5
_FULL_SHARE = 256.0
"""A value whose typical magnitude has lost digits, but whose greatest is this many times float16's least full number,
loses them where they don't count: the probabilities of many keys, for one."""


@dataclass(frozen=True, slots=True)
class HalfFormat:
    """A half-precision type: its greatest number, its least with full digits, and where a mask is clipped to.

    mask: half of float16's greatest, so that the sum of two masks and a score is still finite.
    """

    name: str
    greatest: float
    least: float
    mask: float


FLOAT16 = HalfFormat("FLOAT16", 65504.0, 2.0**-14, 32752.0)
BFLOAT16 = HalfFormat("BFLOAT16", 3.3895313892515355e38, 0.0, 3.3895313892515355e38)


def reason_for_float32(
    node: ir.Node, half: HalfFormat, ranges: Mapping[str, ActivationRange], constants: Constants
) -> str:
    """Return why `node` must compute in float32, or nothing."""
    import onnx_ir as ir

    if node.domain not in ("", "ai.onnx"):
        return f"it belongs to the domain {node.domain}, whose types are not known here"
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attribute.type in graphs for attribute in node.attributes.values()):
        return "its subgraphs take and give float32; what they compute is converted inside them"
    if node.op_type in KEPT_FLOAT32:
        return KEPT_FLOAT32[node.op_type]
    if half.least:
        if is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
            return _SQUARE
        if is_op(node, "Div") and node.inputs[1] is not None and constant_tensor(node.inputs[1]) is None:
            return _DENOMINATOR
    return (
        _reason_from_ranges(node, half, ranges)
        or _reason_from_constants(node, half, constants)
        or _reason_from_terms(node, half, ranges, constants)
    )


def _reason_from_ranges(node: ir.Node, half: HalfFormat, ranges: Mapping[str, ActivationRange]) -> str:
    for value in (*node.inputs, *node.outputs):
        seen = ranges.get(str(value.name)) if value is not None else None
        if seen is None or value is None:
            continue
        peak = _peak(seen)
        if peak > _HEADROOM * half.greatest:
            return f"'{value.name}' reaches {peak:.3g} in the calibration data"
        if 0 < seen.typical < half.least and peak < _FULL_SHARE * half.least:
            return (
                f"'{value.name}' is typically {seen.typical:.2g} in the calibration data,"
                f" under the {half.least:.2g} from which float16 has all its digits"
            )
    return ""


def _reason_from_constants(node: ir.Node, half: HalfFormat, constants: Constants) -> str:
    for value in node.inputs:
        found = constants.magnitudes(value)
        if value is None or found is None:
            continue
        if found.peak > half.greatest:
            return f"its constant '{value.name}' holds {found.peak:.3g}"
        small = _small(found, half)
        if small:
            return f"its constant '{value.name}' {small}, where float16 has few digits or none"
    return ""


def _small(found: Magnitudes, half: HalfFormat) -> str:
    if found.count == 1 and 0 < found.peak < half.least:
        return f"is {found.peak:.2g}"
    if 0 < found.root_mean_square < half.least:
        return f"is typically {found.root_mean_square:.2g}"
    return ""


def _reason_from_terms(
    node: ir.Node, half: HalfFormat, ranges: Mapping[str, ActivationRange], constants: Constants
) -> str:
    """Return why the sums of a product may overflow on the way: K terms of up to max|x| * max|w|.

    Where the result was seen, its terms are taken to have random signs, which makes sqrt(K) of K.
    """
    weight = weight_of(node)
    source = node.inputs[1 - weight.index] if weight is not None and weight.index < 2 else None
    seen = ranges.get(str(source.name)) if source is not None else None
    found = constants.magnitudes(weight.value) if weight is not None else None
    if weight is None or seen is None or found is None or weight.axis is None or not weight.tensor.size:
        return ""
    terms = weight.tensor.size // int(weight.tensor.shape.numpy()[weight.axis])
    is_seen = str(node.outputs[0].name) in ranges
    estimate = (math.sqrt(terms) if is_seen else terms) * _peak(seen) * found.peak
    if estimate <= half.greatest:
        return ""
    return f"its sums of {terms} terms may reach {estimate:.2g} on the way"


def _peak(seen: ActivationRange) -> float:
    return max(-seen.observed_low, seen.observed_high)
