"""The model that a pipeline edits."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


class GraphModel(ir.Model):
    """A model whose `graphs()` costs a tenth: every pass walks it, mostly over graphs without subgraphs."""

    @classmethod
    def copy_of(cls, model: ir.Model) -> GraphModel:
        """Return a copy that shares the weights of `model`."""
        copy = model.clone()
        return cls(
            copy.graph,
            ir_version=copy.ir_version,
            producer_name=copy.producer_name,
            producer_version=copy.producer_version,
            domain=copy.domain,
            model_version=copy.model_version,
            doc_string=copy.doc_string,
            functions=tuple(copy.functions.values()),
            metadata_props=copy.metadata_props,
            device_configurations=copy.device_configurations,
        )

    def graphs(self) -> Iterator[ir.Graph]:
        """Yield the main graph, then each subgraph, an outer one before its inner ones."""
        yield self.graph
        yield from list(_subgraphs(self.graph))


def _subgraphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    for node in graph:
        if not node.attributes.data:
            continue
        for attribute in node.attributes.data.values():
            if attribute.type not in _GRAPHS or attribute.is_ref():
                continue
            for inner in (attribute.value,) if attribute.type == ir.AttributeType.GRAPH else attribute.value:
                yield inner
                yield from _subgraphs(inner)


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})
