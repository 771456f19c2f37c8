"""Operators whose output channels can be scaled and shifted by changing their weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.matching import constant_tensor, input_at, integer

if TYPE_CHECKING:
    import onnx_ir as ir

CHANNEL_AXIS = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": -1,
    "MatMul": -1,
    "BatchNormalization": 1,
    "InstanceNormalization": 1,
    "GroupNormalization": 1,
    "LayerNormalization": -1,
    "RMSNormalization": -1,
}
"""The axis of the output that the weights have one entry for."""

UNBIASED = ("MatMul", "RMSNormalization")
"""Those that cannot shift."""

NORMS = tuple(op_type for op_type in CHANNEL_AXIS if op_type.endswith("Normalization"))


@dataclass(frozen=True, slots=True)
class Weights:
    """The constant weight and bias of such an operator, unread."""

    weight: ir.TensorProtocol
    bias: ir.TensorProtocol | None


def weights_of(node: ir.Node) -> Weights | str:
    """Return the constant weight and bias, or why the node's cannot be changed."""
    weight, bias = constant_tensor(node.inputs[1]), constant_tensor(input_at(node, 2))
    if node.op_type in NORMS:
        if len(node.outputs) > 1 or integer(node, "training_mode", 0):
            return "the norm has other outputs or is in training mode"
        if weight is not None and len(weight.shape) != 1:
            return "the scale of the norm has several axes"
    if weight is None or (bias is None and input_at(node, 2) is not None):
        return f"the weight or bias of the {node.op_type} is not constant"
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return "the weight of the MatMul is not a matrix"
    return Weights(weight, bias)


def channels_of(node: ir.Node, weight: ir.TensorProtocol) -> int:
    """Return how many channels the output has."""
    shape = weight.shape.numpy()
    if node.op_type == "ConvTranspose":
        return int(shape[1]) * integer(node, "group", 1)
    return int(shape[_weight_axis(node)])


def _weight_axis(node: ir.Node) -> int:
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB", 0) else 1
    return -1 if node.op_type == "MatMul" else 0


def scaled(node: ir.Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the weight, in double precision, with which the output is `factor` times as large.

    factor : array of shape (channels,), or () for all channels alike.
    """
    wide = weight.astype(np.float64)
    if factor.ndim == 0:
        return np.asarray(wide * factor)
    if node.op_type == "ConvTranspose":  # [C, M / group, ...]
        groups = integer(node, "group", 1)
        split = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return np.asarray((split * factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape))
    shape = [1] * weight.ndim
    shape[_weight_axis(node)] = -1
    return np.asarray(wide * factor.reshape(shape))


def absorbed(
    node: ir.Node, weight: np.ndarray, factor: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight that takes x where `weight` took factor * x + offset, and what that adds to each output.

    For Conv, and for Gemm and MatMul with a weight of rank 2; both in double precision.
    factor, offset : arrays of shape (input channels,).
    """
    wide = weight.astype(np.float64)
    if node.op_type == "Conv":  # input channel i of group g is channel g * C / group + i
        groups, tail = integer(node, "group", 1), (1,) * (weight.ndim - 2)
        grouped = wide.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])  # [G, M / G, C / G, ...]
        by_channel = (groups, 1, -1, *tail)
        moved = (grouped * offset.reshape(by_channel)).sum(axis=tuple(range(2, grouped.ndim))).reshape(-1)
        return (grouped * factor.reshape(by_channel)).reshape(weight.shape), moved
    rows = wide.T if node.op_type == "Gemm" and integer(node, "transB", 0) else wide  # [K, N]
    moved = offset @ rows
    new = rows * factor.reshape(-1, 1)
    return (new.T if rows is not wide else new), moved


def fits_attribute(value: float, dtype: np.dtype) -> bool:
    """Return whether an attribute, a float of 32 bits, holds the factor as well as a weight of this type would."""
    with np.errstate(over="ignore", under="ignore"):
        held = np.float32(value)
    is_normal = np.isfinite(held) and (value == 0 or abs(held) >= np.finfo(np.float32).tiny)
    return bool(is_normal) and (dtype.itemsize <= 4 or float(held) == value)


def narrowed(
    wide: np.ndarray, old: ir.TensorProtocol | None, dtype: np.dtype, *, axis: int = 0, beside: np.ndarray | None = None
) -> np.ndarray | str:
    """Return a weight that was computed in double precision in its own type, or why it does not fit in there.

    The parts along `axis`, the channels, must keep their digits: a part loses them where its largest number becomes too
    small for its type, the smaller ones weigh little beside that. `beside` is what is added to the result of each part,
    which may hide it. Without `old`, the weight as it was, no digit is asked for.
    """
    import ml_dtypes

    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(dtype)
    if not np.all(np.isfinite(narrow.astype(np.float64))):
        return "the folded weight is not finite"
    if old is None or not wide.size:
        return narrow
    kind = ml_dtypes.finfo(dtype)
    tiny = float(kind.tiny)
    others = tuple(other for other in range(wide.ndim) if other != axis % wide.ndim)
    before, after = (np.abs(one).max(axis=others).astype(np.float64) for one in (old.numpy(), wide))
    lost = (after < tiny) & (after > 0) & (before >= tiny)
    if beside is not None:
        lost &= np.abs(beside) * float(kind.eps) < tiny
    return "the folded weight underflows" if lost.any() else narrow


def underflows(old: ir.TensorProtocol | None, new: np.ndarray) -> bool:
    """Return whether a number that had all the digits of its type lost some by becoming too small for them."""
    import ml_dtypes

    tiny = ml_dtypes.finfo(new.dtype).tiny
    small = np.abs(new) < tiny
    if old is None or not small.any():
        return False
    return bool(np.any(small & (np.abs(np.broadcast_to(old.numpy(), new.shape)) >= tiny)))
