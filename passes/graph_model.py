"""The model that a pipeline edits."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


class GraphModel(ir.Model):
    """A model whose `graphs()` costs a tenth: every pass walks it, mostly over graphs without subgraphs."""

    @classmethod
    def of(cls, model: ir.Model) -> GraphModel:
        """Return `model`'s own graph and functions as such a model; `model` is not to be used any more."""
        return cls(
            model.graph,
            ir_version=model.ir_version,
            producer_name=model.producer_name,
            producer_version=model.producer_version,
            domain=model.domain,
            model_version=model.model_version,
            doc_string=model.doc_string,
            functions=tuple(model.functions.values()),
            metadata_props=model.metadata_props,
            device_configurations=model.device_configurations,
        )

    def graphs(self) -> Iterator[ir.Graph]:
        """Yield the main graph, then each subgraph, an outer one before its inner ones."""
        yield self.graph
        yield from list(subgraphs(self.graph))


def subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield each graph inside `graph`, an outer one before its inner ones."""
    for node in graph:
        if not node.attributes.data:
            continue
        for attribute in node.attributes.data.values():
            if attribute.type not in _GRAPHS or attribute.is_ref():
                continue
            for inner in (attribute.value,) if attribute.type == ir.AttributeType.GRAPH else attribute.value:
                yield inner
                yield from subgraphs(inner)


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
