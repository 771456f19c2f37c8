"""Surgery on a graph: fresh names, new constants, new nodes, and removal of what died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

_SHARED_BYTES = 4096


@dataclass(slots=True)
class Editor:
    """Edits one model for one pass run. The names that it makes are unique in the whole model, and stable."""

    model: ir.Model
    _names: set[str] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)
    _constants: dict[tuple[object, ...], ir.Value] = field(default_factory=dict)

    def fresh_name(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2`, ... where that is taken."""
        if not self._names:  # gathered for the first new name: most runs of most passes make none
            self._names = _names_in(self.model)
        name, count = base, self._counts.get(base, 0)
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        self._counts[base] = count
        return name

    def constant(self, array: np.ndarray, base: str) -> ir.Value:
        """Return an initializer of the main graph that holds `array`; small equal ones made here are shared."""
        import onnx_ir as ir

        key = (array.dtype.str, array.dtype.name, array.shape, array.tobytes()) if array.nbytes <= _SHARED_BYTES else ()
        if key and key in self._constants:
            return self._constants[key]
        name = self.fresh_name(base)
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
        self.model.graph.register_initializer(value)
        if key:
            self._constants[key] = value
        return value

    def insert(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        name: str,
        attributes: Mapping[str, Any] | None = None,
        like: ir.Value | None = None,
        dtype: ir.DataType | None = None,
        shape: Sequence[int | str | None] | None = None,
        domain: str = "",
        outputs: int = 1,
    ) -> ir.Value:
        """Return the first output of a new node put right before `before`.

        `name` is the base of the output's name; `like` gives type and shape, unless `dtype` or `shape` say otherwise.
        """
        import onnx_ir as ir

        kind = ir.TensorType(dtype) if dtype is not None else (like.type if like is not None else None)
        dims: ir.Shape | None = None
        if shape is not None:
            dims = ir.Shape(shape)
        elif like is not None and like.shape is not None:
            dims = like.shape.copy()
        values = [
            ir.Value(name=self.fresh_name(name if index == 0 else f"{name}_{index}"), type=kind, shape=dims)
            for index in range(outputs)
        ]
        node = ir.node(
            op_type,
            inputs=list(inputs),
            attributes=attributes,
            domain=domain,
            outputs=values,
            name=self.fresh_name(f"{name}/{op_type}"),
            metadata_props=dict(before.metadata_props),
        )
        graph = before.graph
        assert graph is not None
        graph.insert_before(before, node)
        return values[0]

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new`, which a new node made, replace `old` everywhere under its name, type and shape."""
        if new.type is None:
            new.type = old.type
        if old.shape is not None:
            new.shape = old.shape.copy()
        name, old_node = old.name, old.producer()
        self._names.discard(str(new.name))
        self._counts.clear()
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        new.name = name
        if old_node is not None:
            self.drop(old_node)

    def drop(self, node: ir.Node) -> None:
        """Remove `node` if nothing reads it, then each producer that nothing reads any more."""
        pending = [node]
        while pending:
            dead = pending.pop()
            if dead.graph is None or not is_dead(dead):
                continue
            pending.extend(remove_node(dead))

    def drop_constant(self, value: ir.Value) -> None:
        """Remove an initializer, or the Constant that makes `value`, if nothing reads it."""
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            return
        producer, graph = value.producer(), value.graph
        if producer is not None:
            self.drop(producer)
        elif graph is not None and value.name in graph.initializers:
            del graph.initializers[str(value.name)]


def _names_in(model: ir.Model) -> set[str]:
    names = {""}
    for graph in model.graphs():
        names.update(str(value.name) for value in graph.inputs)
        names.update(graph.initializers)
        for node in graph:
            names.add(node.name or "")
            names.update([str(value.name) for value in node.outputs if value.name])
    return names


def is_dead(node: ir.Node) -> bool:
    """Return whether no output is read or is an output of the graph."""
    return not any(output.uses() or output.is_graph_output() for output in node.outputs)


def remove_node(node: ir.Node) -> list[ir.Node]:
    """Remove a dead node, detaching what it and its subgraphs read; returns the producers of those values."""
    import onnx_ir as ir

    graph = node.graph
    assert graph is not None
    inner = [node]
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) and not attribute.is_ref():
            graphs = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
            for subgraph in graphs:
                inner.extend(subgraph.all_nodes())
    producers: dict[ir.Node, None] = {}
    for reader in inner:
        for index, value in enumerate(reader.inputs):
            if value is None:
                continue
            producer = value.producer()
            if producer is not None and producer not in inner:
                producers[producer] = None
            reader.replace_input_with(index, None)
    graph.remove(node)
    return list(producers)


def forward(old: ir.Value, new: ir.Value) -> bool:
    """Let every reader of `old` read `new`, a value that exists already; returns whether that could be done.

    The names of graph inputs and outputs never change: where `old` is an output of the graph, `new` takes its place and
    name only if it is made in the same graph and is not an output itself.
    """
    if old.is_graph_output():
        movable = new.producer() is not None and new.graph is old.graph and not new.is_graph_output()
        if not movable:
            return False
        name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        old.name = None
        new.name = name
        if new.shape is None and old.shape is not None:
            new.shape = old.shape.copy()
        if new.type is None:
            new.type = old.type
        return True
    old.replace_all_uses_with(new)
    return True
