"""What is known about shapes: fills in missing dimensions of a model, and follows tensors that hold dimensions."""

from __future__ import annotations

import re
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from passes.content import Content
from passes.dimensions import Dim, Dims, dim_from, plain, unnamed
from passes.matching import constant_array, dims_of, is_op
from passes.onnx_inference import UNKNOWN_PREFIX

if TYPE_CHECKING:
    import onnx_ir as ir

_TRACKED_ELEMENTS = 64
_MOST_ROUNDS = 4

_facts_of: weakref.WeakKeyDictionary[ir.Model, ShapeFacts] = weakref.WeakKeyDictionary()
"""What the last sweep over a model found: the next one derives anew only what follows from what changed since."""


_INVENTED = re.compile(r"[A-Z][A-Za-z]+.+_dim_\d+")
"""How the older exporter of torch names a dimension that it does not know: operator, tensor, `_dim_`, axis."""


@dataclass(slots=True)
class ShapeFacts:
    """Shapes and contents by value.

    _records: what each node looked like when its facts were derived. _sources: the same of inputs and initializers.
    _untyped: the nodes whose outputs had no type or rank then.
    """

    shapes: dict[ir.Value, Dims] = field(default_factory=dict)
    contents: dict[ir.Value, Content] = field(default_factory=dict)
    _records: dict[ir.Node, tuple[Any, ...]] = field(default_factory=dict)
    _sources: dict[ir.Value, tuple[Any, ...]] = field(default_factory=dict)
    _untyped: set[ir.Node] = field(default_factory=set)

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the dimensions, or None for an unknown rank."""
        if value is None:
            return None
        found = self.shapes.get(value)
        if found is not None:
            return found
        self._watch(value)
        declared = declared_shape(value)
        if declared is None:
            return None
        self.shapes[value] = _named(value, declared)
        return self.shapes[value]

    def content(self, value: ir.Value | None) -> Content | None:
        """Return the elements of a small integer tensor, where they are known."""
        if value is None:
            return None
        found = self.contents.get(value)
        if found is not None:
            return found
        self._watch(value)
        array = constant_array(value, max_bytes=8 * _TRACKED_ELEMENTS)
        if array is None or array.dtype.kind not in "iub" or array.ndim > 1 or array.size > _TRACKED_ELEMENTS:
            return None
        self.contents[value] = Content(tuple(Dim(int(element)) for element in array.reshape(-1)), array.ndim == 0)
        return self.contents[value]

    def _watch(self, value: ir.Value) -> None:
        if value.producer() is None:
            self._sources[value] = _stated(value)

    def _changed_sources(self) -> set[ir.Value]:
        """Forget the inputs and initializers that no longer are what they were, and return them."""
        changed = {value for value, stated in self._sources.items() if _differs(_stated(value), stated)}
        for value in changed:
            self._forget(value)
            del self._sources[value]
        return changed

    def _forget(self, value: ir.Value) -> None:
        self.shapes.pop(value, None)
        self.contents.pop(value, None)

    def _is_current(self, node: ir.Node, changed: set[ir.Value]) -> bool:
        record = self._records.get(node)
        if record is None:
            return False
        op_type, domain, inputs, attributes, outputs, stated, derived = record
        if node.inputs is not inputs or node.outputs is not outputs:
            return False
        if node.op_type != op_type or node.domain != domain or node.attributes.data != attributes:
            return False
        if changed and not changed.isdisjoint(inputs):
            return False
        for value, shape, known in zip(outputs, stated, derived, strict=True):  # a loop: this runs for each node, often
            if value.shape is not shape or self.shapes.get(value) is not known:
                return False
        return True

    def _may_have_types_now(self, node: ir.Node, changed: set[ir.Value]) -> bool:
        """Return whether onnx should be asked: the node is new, or had no types and is no longer what it was."""
        return node not in self._records or (node in self._untyped and not self._is_current(node, changed))

    def _derive(self, node: ir.Node) -> list[ir.Value]:
        """Derive what follows for the outputs of `node`; returns those of which something else is known than before."""
        from passes.shape_rules import infer_node

        before = [(self.shapes.get(value), self.contents.get(value)) for value in node.outputs]
        for value in node.outputs:
            self._forget(value)
        infer_node(node, self)
        for value in node.outputs:
            _write(value, self)
        if is_op(node, "Constant"):
            self.content(node.outputs[0])
        self._records[node] = (
            node.op_type,
            node.domain,
            node.inputs,
            dict(node.attributes.data),
            node.outputs,
            [value.shape for value in node.outputs],
            [self.shapes.get(value) for value in node.outputs],
        )
        (self._untyped.add if _lacks_type(node) else self._untyped.discard)(node)
        after = [(self.shapes.get(value), self.contents.get(value)) for value in node.outputs]
        return [value for value, old, new in zip(node.outputs, before, after, strict=True) if old != new]

    def _prune(self, nodes: list[ir.Node]) -> None:
        """Let go of the nodes that left the graph, once they are many."""
        if len(self._records) <= len(nodes) + len(nodes) // 2 + 100:
            return
        for node in self._records.keys() - set(nodes):
            self._untyped.discard(node)
            for value in self._records.pop(node)[4]:
                self._forget(value)


def _stated(value: ir.Value) -> tuple[Any, ...]:
    return value.const_value, value.shape, value.is_initializer(), value.is_graph_input()


def _differs(now: tuple[Any, ...], then: tuple[Any, ...]) -> bool:
    tensor, shape, is_initializer, is_input = then
    return now[0] is not tensor or now[1] is not shape or now[2] is not is_initializer or now[3] is not is_input


def declared_shape(value: ir.Value) -> Dims | None:
    """Return the shape that the model states for a value, or that its constant has."""
    if value.const_value is not None and value.is_initializer():
        return tuple([dim_from(dim) for dim in value.const_value.shape.numpy()])
    dims = dims_of(value)
    if dims is None:
        return None
    # names that onnx's inference invents say only "unknown"
    return tuple([None if isinstance(dim, str) and dim.startswith(UNKNOWN_PREFIX) else dim_from(dim) for dim in dims])


def infer_shapes(model: ir.Model) -> ShapeFacts:
    """Fill in missing types and dimensions in place, and return all that is known. No weight is read.

    A stated dimension is never changed. Types and ranks that are missing come from onnx's inference. Only nodes that
    changed since the last call for this model, and what follows from them, are derived anew; the facts of the last call
    are brought up to date.
    """
    facts = _facts_of.setdefault(model, ShapeFacts())
    nodes = [node for graph in model.graphs() for node in graph]
    changed = facts._changed_sources()
    is_asking = any(_lacks_type(node) for node in nodes if facts._may_have_types_now(node, changed))
    for _ in range(_MOST_ROUNDS):
        if is_asking:
            from passes.onnx_inference import fill_in_types

            fill_in_types(model)
        is_asking = False  # what is derived here may let onnx go further
        for node in nodes:
            if not facts._is_current(node, changed):
                changed.update(facts._derive(node))
                is_asking = is_asking or node in facts._untyped
        if not is_asking:
            break
        changed = set()
    facts._prune(nodes)
    return facts


def _named(value: ir.Value, dims: Dims) -> Dims:
    """Return the shape with a symbol of its own for each unknown dimension, so that it can be followed."""
    if None not in dims:
        return dims
    return tuple(dim or unnamed(str(value.name), axis) for axis, dim in enumerate(dims))


def _write(value: ir.Value, facts: ShapeFacts) -> None:
    import onnx_ir as ir

    inferred = facts.shapes.get(value)
    declared = declared_shape(value)
    if inferred is None or (declared is not None and len(declared) != len(inferred)):
        if declared is not None:
            facts.shapes[value] = _named(value, declared)
        return
    merged = (
        inferred
        if declared is None or declared == inferred
        else tuple(_better(own, new, value) for own, new in zip(declared, inferred, strict=True))
    )
    facts.shapes[value] = _named(value, merged)
    stated = [plain(dim) for dim in merged]
    if value.shape is None or dims_of(value) != tuple(stated):
        value.shape = ir.Shape(stated)


def _better(declared: Dim | None, inferred: Dim | None, value: ir.Value) -> Dim | None:
    """Return the stated dimension; but what is inferred, where an exporter invented a name for this tensor alone."""
    if declared is None or inferred is None or value.is_graph_output():
        return declared or inferred
    is_invented = len(declared.symbols) == 1 and _INVENTED.fullmatch(declared.symbols[0]) is not None
    return inferred if is_invented else declared


def _lacks_type(node: ir.Node) -> bool:
    return any(value.name and (value.type is None or value.shape is None) for value in node.outputs)
