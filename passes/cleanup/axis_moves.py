"""How an operator is written when the axes of what it reads and makes change places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dimensions import Dim
from passes.matching import constant_integers, input_at, integer, integers, rank_of
from passes.shapes import ShapeFacts

if TYPE_CHECKING:
    import onnx_ir as ir

Perm = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """What changes in a node: attributes, and inputs of integers by their place."""

    attributes: dict[str, Any] = field(default_factory=dict)
    integers: dict[int, np.ndarray] = field(default_factory=dict)


Move = Callable[["ir.Node", Perm, ShapeFacts], "Moved | str"]
"""Returns the change for axis `a` becoming axis `perm[a]`, or why there is none."""


def inverse(perm: Sequence[int]) -> Perm:
    """Return the permutation that undoes `perm`."""
    return tuple(int(place) for place in np.argsort(perm))


def moves_only_ones(value: ir.Value | None, perm: Perm, facts: ShapeFacts) -> bool:
    """Return whether a Transpose of `value` leaves the elements in their order, as every axis that it moves has one."""
    dims = facts.shape(value)
    if dims is None or len(dims) != len(perm):
        return False
    places = [axis for axis in perm if dims[axis] != Dim(1)]
    return places == sorted(places)


def _nothing(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    return Moved()


def _axis(default: int) -> Move:
    def move(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
        axis = integer(node, "axis", default)
        return Moved({"axis": perm[axis]})

    return move


def _quantized_axis(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    rank = rank_of(node.inputs[1])
    if rank is None or rank > 1 or integer(node, "block_size", 0):
        return "its scales are of blocks"
    return Moved({"axis": perm[integer(node, "axis", 1)]}) if rank else Moved()


def _kept_axes(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    if not integer(node, "keepdims", 1):
        return "it takes axes away"
    return reduced(node, perm)


def reduced(node: ir.Node, perm: Perm) -> Moved | str:
    """Return the change to a reduction over some axes."""
    if node.op_type in ("ArgMax", "ArgMin"):
        return Moved({"axis": perm[integer(node, "axis", 0)]})
    attribute = integers(node, "axes")
    if attribute is not None:
        return Moved({"axes": sorted(perm[axis] for axis in attribute)})
    if input_at(node, 1) is None:
        return Moved()
    axes = constant_integers(node.inputs[1])
    return (
        "its axes are not constant"
        if axes is None
        else Moved(integers={1: np.array(sorted(perm[axis] for axis in axes), dtype=np.int64)})
    )


def _slice(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    axes = constant_integers(input_at(node, 3))
    if axes is None and input_at(node, 3) is None and len(node.inputs) > 1:
        dims = facts.shape(node.inputs[1])
        count = None if dims is None or dims[0] is None else dims[0].fixed
        axes = None if count is None else list(range(count))
    if axes is None:
        return "its axes are not constant"
    return Moved(integers={3: np.array([perm[axis] for axis in axes], dtype=np.int64)})


def _pad(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    if input_at(node, 3) is not None:
        axes = constant_integers(node.inputs[3])
        if axes is None:
            return "its axes are not constant"
        return Moved(integers={3: np.array([perm[axis] for axis in axes], dtype=np.int64)})
    pads = constant_integers(input_at(node, 1))
    if pads is None or len(pads) != 2 * len(perm):
        return "its amounts are not constant"
    back = inverse(perm)
    halves = (pads[: len(perm)], pads[len(perm) :])
    return Moved(integers={1: np.array([half[axis] for half in halves for axis in back], dtype=np.int64)})


def _cumulative(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    axes = constant_integers(input_at(node, 1))
    if axes is None or len(axes) != 1:
        return "its axis is not constant"
    dtype = node.inputs[1].dtype.numpy()  # type: ignore[union-attr]
    return Moved(integers={1: np.array(perm[axes[0]], dtype=dtype)})


def _trailing(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    """A norm over trailing axes stays what it is where these keep their places."""
    first = integer(node, "axis", -1) % len(perm)
    if perm[first:] != tuple(range(first, len(perm))):
        return "the axes that it normalizes would move"
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return "its statistics are read"
    return Moved({"axis": first})


def _rows(node: ir.Node, perm: Perm, facts: ShapeFacts) -> Moved | str:
    if rank_of(node.inputs[1]) != 2 or perm[-1] != len(perm) - 1:
        return "the axis that it multiplies would move"
    return Moved()


@dataclass(frozen=True, slots=True)
class Transparent:
    """An operator that commutes with Transpose. first: only its first input has the axes, not all of them."""

    move: Move = _nothing
    first: bool = True


def _table(names: str, kind: Transparent) -> dict[str, Transparent]:
    return dict.fromkeys(names.split(), kind)


TRANSPARENT: dict[str, Transparent] = (
    _table(
        "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
        "HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign "
        "Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu",
        Transparent(),
    )
    | _table(
        "Add And BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod "
        "Mul Or PRelu Pow Sub Sum Where Xor",
        Transparent(first=False),
    )
    | _table("Concat", Transparent(_axis(0), first=False))
    | _table("Split", Transparent(_axis(0)))
    | _table("Softmax LogSoftmax Hardmax", Transparent(_axis(-1)))
    | _table("QuantizeLinear DequantizeLinear", Transparent(_quantized_axis))
    | _table(
        "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
        "ReduceSumSquare ArgMax ArgMin",
        Transparent(_kept_axes),
    )
    | _table("Slice", Transparent(_slice))
    | _table("Pad", Transparent(_pad))
    | _table("CumSum", Transparent(_cumulative))
    | _table("LayerNormalization RMSNormalization", Transparent(_trailing))
    | _table("MatMul", Transparent(_rows))
)
"""The operators that are written the same way whatever the order of the axes."""


def absorbed(node: ir.Node, place: int, perm: Perm, facts: ShapeFacts) -> Moved | None:
    """Return how a node reads the tensor before the Transpose by `perm` that makes its input; None where it cannot.

    The node's output is as before: a Gemm transposes by itself, a reduction or a Reshape loses the order of axes.
    """
    source = node.inputs[place]
    kind = TRANSPARENT.get(node.op_type)
    if node.domain != "" or rank_of(source) not in (len(perm), None):  # a region may hold values of other ranks
        return None
    if node.op_type == "Gemm" and place < 2 and perm == (1, 0):
        name = ("transA", "transB")[place]
        return Moved({name: 1 - integer(node, name, 0)})
    if kind is not None and kind.move is _kept_axes and place == 0 and not integer(node, "keepdims", 1):
        return _absorbed_by_reduction(node, perm)
    if place or not moves_only_ones(source, inverse(perm), facts):
        return None
    if node.op_type == "Flatten":
        first = integer(node, "axis", 1) % (len(perm) + 1)
        return Moved({"axis": first}) if set(perm[:first]) == set(range(first)) else None
    if node.op_type != "Reshape" or integer(node, "allowzero", 0):
        return None
    wanted = constant_integers(input_at(node, 1))
    if wanted is None or any(dim == 0 and (axis >= len(perm) or perm[axis] != axis) for axis, dim in enumerate(wanted)):
        return None
    return Moved()


def _absorbed_by_reduction(node: ir.Node, perm: Perm) -> Moved | None:
    moved = reduced(node, perm)
    if isinstance(moved, str):
        return None
    if node.op_type in ("ArgMax", "ArgMin"):
        gone = {perm[integer(node, "axis", 0)]}
    else:
        axes = moved.attributes.get("axes", moved.integers.get(1))
        if axes is None:
            return moved if not integer(node, "noop_with_empty_axes", 0) else None
        gone = {int(axis) for axis in axes}
    kept = [axis for axis in perm if axis not in gone]
    if not gone or kept != sorted(kept):
        return None
    return moved
