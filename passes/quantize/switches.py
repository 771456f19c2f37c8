"""One graph that computes every mixture of a float graph and its quantized form: a switch an operator, set at run time.

Where the two graphs differ in what a node reads, a Where chooses between both operands. So one session, with the
weights loaded once, tells what each operator costs alone, and what any choice of operators costs together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.base import PassResult, node_label
from passes.editing import Editor
from passes.quantize.placement import MOVERS
from passes.quantize.weighted import is_constant, weight_of

if TYPE_CHECKING:
    import onnx_ir as ir

RULE_PREFIX = "int8 "
"""What the rule of an event that put an operator into int8 begins with."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One operator that can be low precision: its name and type, its place in the switches' vector.

    shape_output: the graph output that holds its result's shape. row: how many products make one entry of the result.
    """

    name: str
    op_type: str
    shape_output: str
    row: int


@dataclass(frozen=True, slots=True)
class SwitchGraph:
    """A graph with one input more, `switch_input`: bool [operators], true where the operator is quantized."""

    model: ir.Model
    switch_input: str
    switches: tuple[Switch, ...]
    outputs: tuple[str, ...]


def switch_graph(model: ir.Model, quantized: ir.Model, result: PassResult) -> SwitchGraph:
    """Return the graph of all mixtures of `model` and `quantized`, which a pass made of it with `result`.

    An activation's rounding is switched by the operator that reads it; where a float operator reads it, by the one that
    made it. Both models stay as they are, and share their weights with the new one.
    """
    return _Writer(model, quantized.clone(), result).write()


class _Writer:
    def __init__(self, model: ir.Model, mixed: ir.Model, result: PassResult) -> None:
        import onnx_ir as ir

        self.plain = model.graph
        self.model = mixed
        self.graph = mixed.graph
        self.editor = Editor(mixed)
        self.first = mixed.graph[0]
        names = {event.node for event in result.applied if event.rule.startswith(RULE_PREFIX)}
        operators = [node for node in self.plain if node_label(node) in names]
        self.position = {node: index for index, node in enumerate(operators)}
        self.values = {str(value.name): value for node in self.graph for value in node.outputs}
        self.values |= {str(value.name): value for value in self.graph.inputs} | dict(self.graph.initializers)
        self.outputs = tuple(str(value.name) for value in self.graph.outputs)
        self.vector = ir.Value(
            name=self.editor.fresh_name("switches"),
            type=ir.TensorType(ir.DataType.BOOL),
            shape=ir.Shape([len(operators)]),
        )
        self._conditions: dict[tuple[int, ...], ir.Value] = {}

    def write(self) -> SwitchGraph:
        self.graph.inputs.append(self.vector)
        twins = {str(node.outputs[0].name): node for node in self.graph if node.outputs}
        for node in self.plain:
            twin = twins.get(str(node.outputs[0].name)) if node.outputs else None
            if twin is not None:
                self._mix(node, twin)
        switches = tuple(self._switch(node, twins[str(node.outputs[0].name)]) for node in self.position)
        return SwitchGraph(self.model, str(self.vector.name), switches, self.outputs)

    def _mix(self, node: ir.Node, twin: ir.Node) -> None:
        """Let `twin` read what `node` reads, or what it reads itself, as the switches say."""
        for index, quantized in enumerate(list(twin.inputs)):
            plain = node.inputs[index] if index < len(node.inputs) else None
            if quantized is None or (plain is not None and plain.name == quantized.name):
                continue
            owners = sorted({self.position[owner] for owner in self._owners(node, plain)})
            if owners:
                operands = [self._condition(tuple(owners)), quantized, self._plain_value(plain, quantized)]
                mixed = self.editor.insert(twin, "Where", operands, name=f"{quantized.name}_mixed", like=quantized)
                twin.replace_input_with(index, mixed)

    def _owners(self, node: ir.Node, plain: ir.Value | None) -> list[ir.Node]:
        """Return the operators whose quantization changed this operand of `node`."""
        if node in self.position:
            return [node]
        is_data = plain is not None and not is_constant(plain)
        below = list(self._through_movers(node)) if is_data else []
        return below or list(self._above(node))

    def _through_movers(self, node: ir.Node) -> Iterator[ir.Node]:
        """Yield the operators that read what a chain of movers, beginning with `node`, hands on."""
        pending, seen = [node], {node}
        while pending:
            mover = pending.pop()
            if mover.op_type not in MOVERS:
                continue
            for reader in (use.node for value in mover.outputs for use in value.uses()):
                if reader in self.position:
                    yield reader
                elif reader not in seen:
                    seen.add(reader)
                    pending.append(reader)

    def _above(self, node: ir.Node) -> Iterator[ir.Node]:
        """Yield the nearest operators above `node`."""
        pending, seen = [node], {node}
        while pending:
            for value in pending.pop().inputs:
                producer = value.producer() if value is not None else None
                if producer is None or producer in seen:
                    continue
                seen.add(producer)
                if producer in self.position:
                    yield producer
                else:
                    pending.append(producer)

    def _condition(self, switches: tuple[int, ...]) -> ir.Value:
        """Return a scalar that is true when any of the switches is on."""
        import numpy as np
        import onnx_ir as ir

        if switches not in self._conditions:
            operands = [self.vector, self.editor.constant(np.asarray(switches[-1], np.int64), "switch_index")]
            if len(switches) > 1:
                operands = [self._condition(switches[:-1]), self._condition(switches[-1:])]
            self._conditions[switches] = self.editor.insert(
                self.first,
                "Gather" if len(switches) == 1 else "Or",
                operands,
                name=f"switch_{'_'.join(map(str, switches))}",
                dtype=ir.DataType.BOOL,
                shape=[],
            )
        return self._conditions[switches]

    def _plain_value(self, plain: ir.Value | None, quantized: ir.Value) -> ir.Value:
        """Return the float operand in the mixed graph; a weight that quantization dropped is put back."""
        import numpy as np
        import onnx_ir as ir

        if plain is None:  # a bias that quantization added
            shape = [int(size) for size in quantized.shape or () if isinstance(size, int)]
            return self.editor.constant(np.zeros(shape, np.float32), f"{quantized.name}_zero")
        name = str(plain.name)
        if name not in self.values:
            tensor = ir.convenience.get_const_tensor(plain)
            assert tensor is not None, f"{name} is computed, and yet the quantized graph lacks it"
            value = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
            )
            self.graph.register_initializer(value)
            self.values[name] = value
        return self.values[name]

    def _switch(self, node: ir.Node, twin: ir.Node) -> Switch:
        import onnx_ir as ir

        name = self.editor.fresh_name(f"{node.outputs[0].name}_shape")
        shape = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64))
        self.graph.append(ir.Node("", "Shape", [twin.outputs[0]], outputs=[shape], name=f"{name}_node"))
        self.graph.outputs.append(shape)
        return Switch(node_label(node), node.op_type, name, _row(node))


def _row(node: ir.Node) -> int:
    """Return how many products make one entry of the operator's result; 1 for one without weights."""
    weight = weight_of(node)
    if weight is None:
        return 1
    channels = weight.tensor.shape.numpy()[weight.axis] if weight.axis is not None else 1
    return max(1, weight.tensor.size // max(1, channels))
