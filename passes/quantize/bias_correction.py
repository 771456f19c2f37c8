"""The shift of a product's mean that rounding its weights causes, to be taken off its bias (arXiv 1906.04721, 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.weighted import is_constant

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.quantize.weighted import Weight


def mean_shift(
    weight: Weight, rounding: npt.NDArray[np.floating], mean: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64] | None:
    """Return how far the mean of each output channel moves when the weight changes by `rounding`.

    `rounding` has the weight's shape; `mean` is that of each channel of the operator's input. None for a layout that
    is neither a Conv's nor a matrix product's. Padding is counted as if it held the mean.
    """
    node = weight.node
    if weight.has_rows():
        rows = rounding.T if node.attributes.get_int("transB", 0) else rounding
        return np.asarray(mean @ rows, np.float64) if rows.shape[0] == mean.size else None
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        taps = rounding.reshape(rounding.shape[0], rounding.shape[1], -1).sum(axis=2, dtype=np.float64)  # [O, I / g]
        if mean.size != groups * taps.shape[1]:
            return None
        grouped = taps.reshape(groups, -1, taps.shape[1])  # [g, O / g, I / g]
        return np.asarray(np.einsum("goi,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1), np.float64)
    return None


def added_bias(product: ir.Node) -> tuple[ir.Node, int] | None:
    """Return the Add or Sum, and the position of its constant, that gives a matrix product its bias; None without one.

    It must be the product's only reader, and its constant vary over the channels only: [N], [1, 1, N].
    """
    uses = list(product.outputs[0].uses())
    if len(uses) != 1 or product.outputs[0].is_graph_output() or uses[0].node.op_type not in ("Add", "Sum"):
        return None
    reader = uses[0].node
    for position, operand in enumerate(reader.inputs):
        if operand is None or position == uses[0].idx or not is_constant(operand) or operand.shape is None:
            continue
        if all(size == 1 for size in list(operand.shape)[:-1]):
            return reader, position
    return None
