"""An ONNX graph as one JAX function: a walk over the nodes in order, each by its lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.base import node_label
from passes.errors import Blocker, BuildFailed
from targets.origin import source_line
from targets.xla.lowering.call import Call
from targets.xla.lowering.registry import Lowering, find_host_function, find_lowering
from targets.xla.lowering.values import Dequantized, Unknown, Unsupported, is_host, is_symbolic, on_device

if TYPE_CHECKING:
    import onnx_ir as ir

_FOLDED_BYTES = 1 << 20

_ABSENT: Any = object()
"""What stands for a value that could not be computed, while blockers are collected."""


class _NodeFailed(Exception):
    def __init__(self, node: ir.Node, reason: str) -> None:
        super().__init__(f"{node.op_type} '{node_label(node)}': {reason}")
        self.node = node
        self.reason = reason


@dataclass(slots=True)
class Program:
    """`Program(...)(weights, inputs)` computes the outputs of the model, under jax tracing.

    float_type: what float32 tensors are computed in. blockers: None to raise BuildFailed at the first node that cannot
    be lowered, or a list that collects every one of them. int8_nodes: filled in by a run: the nodes lowered to int8
    arithmetic. suggested_bounds: filled in too: bounds on symbols under which no slice is cut short.
    """

    model: ir.Model
    float_type: Any = np.float32
    blockers: list[Blocker] | None = None
    int8_nodes: set[str] = field(default_factory=set)
    suggested_bounds: set[str] = field(default_factory=set)

    def __call__(self, weights: Mapping[str, Any], inputs: Sequence[Any]) -> tuple[Any, ...]:
        graph = self.model.graph
        scope = _Scope(self, {}, {}, dict(self.model.opset_imports), weights)
        fed = [value for value in graph.inputs if value.name not in graph.initializers]
        try:
            results = scope.run(graph, [self._narrow(value) for value in inputs], formal=fed, collect=True)
        except _NodeFailed as error:
            raise BuildFailed(f"The XLA lowering stops at {error}") from error
        return tuple(self._result(value, actual) for value, actual in zip(graph.outputs, results, strict=True))

    def _narrow(self, value: Any) -> Any:
        return narrowed(value, self.float_type)

    def _result(self, declared: ir.Value, actual: Any) -> Any:
        import jax.numpy as jnp
        import onnx_ir as ir

        if actual is _ABSENT:
            return jnp.zeros(())
        array = jnp.asarray(on_device(actual))
        kind = declared.dtype
        if kind is not None and kind is not ir.DataType.UNDEFINED:
            return array.astype(kind.numpy())
        return array.astype(np.float32) if array.dtype == self.float_type else array


def narrowed(value: Any, float_type: Any) -> Any:
    """Return a float32 value in `float_type`, finite values that are beyond its range at its limits; others as is."""
    import jax.numpy as jnp
    import ml_dtypes

    if value is None or getattr(value, "dtype", None) != np.float32 or np.dtype(float_type) == np.float32:
        return value
    limit = float(ml_dtypes.finfo(float_type).max)
    if isinstance(value, np.ndarray | np.generic):
        return np.where(np.isinf(value), value, np.clip(value, -limit, limit)).astype(float_type)
    return jnp.where(jnp.isinf(value), value, jnp.clip(value, -limit, limit)).astype(float_type)


@dataclass(slots=True)
class _Scope:
    """The values visible in one graph: its own, and those of the graphs around it."""

    program: Program
    values: dict[ir.Value, Any]
    attributes: Mapping[str, ir.Attr]
    opsets: Mapping[str, int]
    weights: Mapping[str, Any]

    def run(
        self, graph: ir.Graph | ir.Function, inputs: Sequence[Any], *, formal: Sequence[ir.Value], collect: bool = False
    ) -> list[Any]:
        self.values.update(zip(formal, inputs, strict=True))
        for value in getattr(graph, "initializers", {}).values():
            if value in formal:
                continue
            self.values[value] = self._constant(graph, str(value.name), value.const_value)
        blockers = self.program.blockers if collect else None
        for node in graph:
            try:
                results = self._outputs_of(node)
            except _NodeFailed as error:
                if blockers is None:
                    raise
                blockers.append(_blocker(error))
                results = (_ABSENT,) * len(node.outputs)
            for value, result in zip(node.outputs, results, strict=False):
                self.values[value] = result
        return [self._value(value) for value in graph.outputs]

    def _constant(self, graph: Any, name: str, tensor: Any) -> Any:
        if graph is self.program.model.graph and name in self.weights:
            return self.weights[name]
        return np.asarray(tensor.numpy())

    def _value(self, value: ir.Value | None) -> Any:
        if value is None or not value.name:
            return None
        if value not in self.values:
            raise KeyError(f"the value '{value.name}' is read before it is computed")
        return self.values[value]

    def _outputs_of(self, node: ir.Node) -> tuple[Any, ...]:
        inputs = [self._value(value) for value in node.inputs]
        if any(value is _ABSENT for value in inputs):
            return (_ABSENT,) * len(node.outputs)
        function = self.program.model.functions.get(node.op_identifier())
        if function is not None:
            return tuple(self._run_function(function, node, inputs))
        while inputs and inputs[-1] is None:
            inputs.pop()
        version = node.version or self.opsets.get(node.domain, self.opsets.get("", 1))
        lowering = find_lowering(node.op_type, node.domain, version)
        if lowering is None:
            raise _NodeFailed(node, unsupported_reason(node.domain, node.op_type, version))
        if node.op_type == "Constant" and node.graph is self.program.model.graph:
            name = str(node.outputs[0].name)
            if name in self.weights:
                return (self.weights[name],)
        try:
            return self._lowered(node, lowering, version, inputs)
        except (Unknown, Unsupported) as error:
            raise _NodeFailed(node, str(error)) from error
        except _NodeFailed as error:
            raise _NodeFailed(node, f"in its subgraph, {error}") from error
        except Exception as error:  # jax and numpy raise many kinds; all mean that this node can't be lowered so
            text = str(error).strip().splitlines()
            raise _NodeFailed(node, f"{type(error).__name__}: {text[0] if text else ''}") from error

    def _lowered(self, node: ir.Node, lowering: Lowering, version: int, inputs: list[Any]) -> tuple[Any, ...]:
        import jax

        known = all(value is None or is_host(value) for value in inputs)
        has_graphs = any(attribute.type.name in ("GRAPH", "GRAPHS") for attribute in node.attributes.values())
        if known and not has_graphs:
            results = self._on_host(node, version, inputs)
            if results is not None:
                return results
            if inputs and not any(is_symbolic(value) for value in inputs):
                call = self._call(node, version, np.float32)
                with jax.ensure_compile_time_eval():
                    results = _as_tuple(lowering.function(call, *inputs))
                    results = tuple(_known(value) for value in results)
                if sum(value.nbytes for value in results if is_host(value)) <= _FOLDED_BYTES:
                    return results
        call = self._call(node, version, self.program.float_type)
        prepared = [self._prepared(lowering, position, value) for position, value in enumerate(inputs)]
        results = _as_tuple(lowering.function(call, *prepared))
        return tuple(value if is_host(value) else narrowed_output(value, self.program.float_type) for value in results)

    def _on_host(self, node: ir.Node, version: int, inputs: list[Any]) -> tuple[Any, ...] | None:
        from jax.errors import InconclusiveDimensionOperation

        function = find_host_function(node.op_type, node.domain)
        if function is None:
            return None
        try:
            result = function(self._call(node, version, np.float32), *inputs)
        except (InconclusiveDimensionOperation, Unknown):
            return None
        return None if result is NotImplemented else _as_tuple(result)

    def _prepared(self, lowering: Lowering, position: int, value: Any) -> Any:
        if value is None:
            return None
        if position in lowering.host:
            if not is_host(value):
                raise Unknown(f"its input {position} sets a shape, and depends on the data")
            return value
        if isinstance(value, Dequantized):
            return value if lowering.takes_quantized else value.as_float()
        return narrowed(on_device(value), self.program.float_type)

    def _call(self, node: ir.Node, version: int, float_type: Any) -> Call:
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            node = _with_attributes(node, self.attributes)

        def run_graph(graph: ir.Graph, inputs: Sequence[Any]) -> list[Any]:
            scope = _Scope(self.program, dict(self.values), self.attributes, self.opsets, self.weights)
            return scope.run(graph, list(inputs), formal=graph.inputs)

        return Call(
            node, version, float_type, run_graph, self.program.int8_nodes.add, self.program.suggested_bounds.add
        )

    def _run_function(self, function: ir.Function, node: ir.Node, inputs: list[Any]) -> list[Any]:
        given = inputs + [None] * (len(function.inputs) - len(inputs))
        attributes = {**function.attributes, **node.attributes}
        scope = _Scope(self.program, {}, attributes, function.opset_imports, self.weights)
        return scope.run(function, given, formal=function.inputs)


def _with_attributes(node: ir.Node, given: Mapping[str, ir.Attr]) -> ir.Node:
    """Return a stand-in for a function body's node with its references to the function's attributes resolved."""
    import onnx_ir as ir

    attributes = []
    for attribute in node.attributes.values():
        if not attribute.is_ref():
            attributes.append(attribute)
        elif (actual := given.get(str(attribute.ref_attr_name))) is not None and actual.value is not None:
            attributes.append(ir.Attr(attribute.name, actual.type, actual.value))
    return ir.Node(
        node.domain,
        node.op_type,
        [],
        attributes,
        outputs=[ir.Value(name=value.name) for value in node.outputs],
        version=node.version,
        name=node.name,
    )


def narrowed_output(value: Any, float_type: Any) -> Any:
    """Return an operator's result in the program's float type, were it float32."""
    return value if isinstance(value, Dequantized) else narrowed(value, float_type)


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def _known(value: Any) -> Any:
    if isinstance(value, Dequantized):
        value = value.as_float()
    return value if is_host(value) else np.asarray(value)


def unsupported_reason(domain: str, op_type: str, version: int) -> str:
    """Return why an operator without a lowering blocks."""
    return f"no XLA lowering for {domain or 'ai.onnx'}::{op_type} (operator set {version})"


def _blocker(error: _NodeFailed) -> Blocker:
    node = error.node
    return Blocker(node_label(node), node.op_type, error.reason, source_line(node))
