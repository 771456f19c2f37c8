"""Which operators compute in half precision, so that casts cost less than half precision saves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from passes.cleanup.minimum_cut import UNLIMITED, Network
from passes.matching import constant_tensor

if TYPE_CHECKING:
    import onnx_ir as ir

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "Attention", "LSTM", "GRU", "RNN"})
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_CAST_COST = 2
_SINGLE, _HALF = "single", "half"


def worthwhile(
    candidates: Collection[ir.Node], kept: Iterable[ir.Node], *, half_ends: Collection[ir.Value] = frozenset()
) -> frozenset[ir.Node]:
    """Return those of `candidates` that pay for the casts around them; `kept` are the nodes that stay in float32.

    half_ends: the inputs and outputs of graphs that are half precision themselves; all others are float32.

    A product is worth any cast, another operator half of one: both directions cost a pass over the data where it saves
    half a pass. The choice is a smallest cut of the graph between what is float32 and what is half (Dinitz 1970).
    """
    network = Network()
    network.connect(_SINGLE, _HALF, 0)
    fixed = dict.fromkeys(kept)
    for node in fixed:
        network.connect(_SINGLE, node, UNLIMITED)
    for node in candidates:
        network.connect(node, _HALF, _gain(node))
    known = {*candidates, *fixed}
    values: dict[ir.Value, None] = {}
    for node in (*candidates, *fixed):
        values.update(dict.fromkeys(value for value in (*node.inputs, *node.outputs) if value is not None))
    for value in values:
        if value.dtype is None or not value.dtype.is_floating_point() or constant_tensor(value) is not None:
            continue
        ends = _HALF if value in half_ends else _SINGLE
        producer = value.producer()
        start = producer if producer in known else (ends if producer is None else _SINGLE)
        readers: list[object] = [use.node for use in value.uses() if use.node in known]
        if value.is_graph_output():
            readers.append(ends)
        _connect(network, value, start, readers)
    single = network.source_side(_SINGLE, _HALF)
    return frozenset(candidates if single is None else (node for node in candidates if node not in single))


def _connect(network: Network, value: ir.Value, start: object, readers: Iterable[object]) -> None:
    """Let a value cost one cast where its maker and any reader differ, however many readers there are."""
    down, up = (value, "down"), (value, "up")
    network.connect(start, down, _CAST_COST)
    network.connect(up, start, _CAST_COST)
    for reader in readers:
        network.connect(down, reader, UNLIMITED)
        network.connect(reader, up, UNLIMITED)


def _gain(node: ir.Node) -> int:
    if node.op_type in _PRODUCTS:
        return 64
    return 0 if node.op_type in _VIEWS else 1
