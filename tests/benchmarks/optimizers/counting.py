"""How many nodes an ONNX model holds."""

from __future__ import annotations

import onnx


def node_count(model: onnx.ModelProto) -> int:
    """Return the nodes of the graph, of every graph nested in it and of every function: Constant nodes too."""
    return _nodes(model.graph.node) + sum(_nodes(function.node) for function in model.functions)


def _nodes(nodes: object) -> int:
    total = 0
    for node in nodes:  # type: ignore[attr-defined]
        total += 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                total += _nodes(graph.node)
    return total
