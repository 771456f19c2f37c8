"""Which values of a graph are signal, and so worth a scale, and which are constants, masks or indices."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from passes.base import Event

if TYPE_CHECKING:
    import onnx_ir as ir

RULE = "calibrate"

_LOOKUPS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
_SAMPLED_ENTRIES = 4096


def signal_values(model: ir.Model) -> tuple[list[ir.Value], tuple[Event, ...]]:
    """Return the top-level values that carry signal, in graph order, and an Event for each float value left out.

    Signal comes from float inputs and from lookups in learned tables (an embedding). What is computed from integer or
    boolean inputs and constants only is a mask, a position or a length: its magnitudes, such as -3.4e38, say nothing
    about a scale.
    """
    import onnx_ir as ir

    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    graph = model.graph
    found: dict[ir.Value, None] = {}
    left_out: list[Event] = []
    for value in graph.inputs:
        if value.dtype in floats and not value.is_initializer():
            found[value] = None
    for node in graph:
        is_signal = any(value in found for value in node.inputs) or _is_learned_lookup(node) or _captures(node, found)
        for value in node.outputs:
            if value.dtype is not None and value.dtype not in floats:
                continue
            if is_signal:
                found[value] = None
            elif value.dtype in floats and node.op_type != "Constant":
                name = str(value.name)
                left_out.append(Event(RULE, name, "computed from integers and constants only: a mask or an index"))
    return list(found), tuple(left_out)


def _captures(node: ir.Node, found: dict[ir.Value, None]) -> bool:
    """Return whether a subgraph of `node` reads a signal from outside."""
    import onnx_ir as ir

    graphs: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graphs.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            graphs.extend(attribute.as_graphs())
    return any(value in found for graph in graphs for inner in graph.all_nodes() for value in inner.inputs)


def _is_learned_lookup(node: ir.Node) -> bool:
    import onnx_ir as ir

    if node.op_type not in _LOOKUPS or not node.inputs or node.inputs[0] is None:
        return False
    tensor = ir.convenience.get_const_tensor(node.inputs[0])
    if tensor is None or not tensor.dtype.is_floating_point() or len(tensor.shape) < 2:
        return False
    indices = [value for value in node.inputs[1:] if value is not None]
    if all(ir.convenience.get_const_tensor(value) is not None for value in indices):
        return False  # a piece of a weight: a constant
    entries = np.asarray(tensor.numpy()).reshape(-1)[:_SAMPLED_ENTRIES].astype(np.float32)
    return bool(np.isfinite(entries).all()) and len(np.unique(entries)) > 2


_MOVERS = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
"""Operators whose result has exactly the entries of their first input."""

_BY_EXTREMES = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization"})
_BY_EXTREMES |= {"SkipLayerNormalization", "SimplifiedLayerNormalization", "GroupNormalization", "Exp"}
"""Operators in which the greatest entries decide what becomes of all others."""

_ADDERS = frozenset({"Add", "Sum", "Sub", "Where", "Cast"})


def same_entries(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Return for each of `names` the first of them that has the same entries, in other places: often itself."""
    kept = set(names)
    roots = {name: name for name in names}
    for node in model.graph:
        if node.op_type in _MOVERS and node.domain in ("", "ai.onnx") and node.inputs and node.inputs[0] is not None:
            moved, result = str(node.inputs[0].name), str(node.outputs[0].name)
            if moved in kept and result in kept:
                roots[result] = roots[moved]
    return roots


def read_for_extremes(model: ir.Model) -> frozenset[str]:
    """Return the values that are read by nothing but norms, Softmax and the additions and moves that lead to them.

    Clipping an outlier there changes every entry of the result: a norm divides by it, a Softmax chooses by it.
    """
    found: set[ir.Value] = set()
    for node in reversed(list(model.graph)):
        for value in node.outputs:
            uses = list(value.uses())
            if uses and all(
                (use.node.op_type in _BY_EXTREMES and use.idx == 0)
                or (use.node.op_type in _MOVERS | _ADDERS and use.node.outputs[0] in found)
                for use in uses
            ):
                found.add(value)
    return frozenset(str(value.name) for value in found)
