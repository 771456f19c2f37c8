"""A graph run piece by piece over many samples, while the pieces that are still to come may be edited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from passes.quantize.exposure import ExposedGraph, run

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnxruntime as ort

    Array = npt.NDArray[np.generic]
    Feeds = Mapping[str, Array]


@dataclass(slots=True)
class Walk:
    """How far a graph has been computed over all samples.

    A value that a node ahead still reads is kept, for every sample; so nothing that depends on the data is computed
    twice, and nodes ahead, and their weights, may change before they are reached.
    """

    model: ir.Model
    samples: Iterable[Feeds]
    threads: int = 1
    _states: list[dict[ir.Value, Array]] = field(default_factory=list)
    _computed: set[ir.Node] = field(default_factory=set)
    _varying: dict[ir.Value, bool] = field(default_factory=dict)

    def values(self, target: ir.Value) -> Iterator[Array]:
        """Yield `target` for each sample, computing what it depends on; read to the end, it is one step of the walk."""
        if not self._states:
            inputs = {value.name: value for value in self.model.graph.inputs}
            self._states = [
                {inputs[name]: np.asarray(array) for name, array in feeds.items() if name in inputs}
                for feeds in self.samples
            ]
        if self._states and target in self._states[0]:
            yield from [state[target] for state in self._states]
            return
        nodes = self._ahead(target)
        self._computed.update(node for node in nodes if self._is_varying(node.outputs[0]))
        given = self._given(nodes)
        kept = [value for node in nodes for value in node.outputs if self._is_needed(value) and value is not target]
        outputs = [target, *kept]
        session, weights = self._session(nodes, given, outputs) if self._states else (None, {})
        stay = [value for value in self._states[0] if self._is_needed(value)] if self._states else []
        for index, state in enumerate(self._states):
            assert session is not None
            feeds = weights | {str(value.name): state[value] for value in given}
            found = dict(zip(outputs, run(session, feeds, sample=index), strict=True))
            after = {value: state[value] for value in stay} | {value: found[value] for value in kept}
            if self._is_needed(target):
                after[target] = found[target]
            self._states[index] = after
            yield found[target]

    def _ahead(self, target: ir.Value) -> list[ir.Node]:
        """Return the nodes that compute `target` from what is kept, in an order in which they can run."""
        known = self._states[0].keys() if self._states else set()
        order: dict[ir.Node, None] = {}
        pending: list[tuple[ir.Value, bool]] = [(target, False)]
        while pending:
            value, is_ready = pending.pop()
            node = value.producer()
            if node is None or value in known or node in order:
                continue
            if is_ready:
                order[node] = None
                continue
            pending.append((value, True))
            pending.extend((operand, False) for operand in _reads(node))
        return list(order)

    def _given(self, nodes: list[ir.Node]) -> list[ir.Value]:
        """Return the kept values that these nodes read."""
        read = {value for node in nodes for value in _reads(node)}
        return [value for value in self._states[0] if value in read] if self._states else []

    def _is_needed(self, value: ir.Value) -> bool:
        """Return whether a node ahead reads a value that depends on the data."""
        return self._is_varying(value) and any(
            reader not in self._computed for reader in value.consumers() if self._is_varying(reader.outputs[0])
        )

    def _is_varying(self, value: ir.Value) -> bool:
        """Return whether a value depends on the graph's inputs; what does not is computed anew in each piece."""
        pending = [value]
        while pending:
            last = pending[-1]
            node = last.producer()
            if last in self._varying:
                pending.pop()
            elif node is None:
                self._varying[last] = last.is_graph_input()
            else:
                reads = _reads(node)
                unknown = [operand for operand in reads if operand not in self._varying]
                if unknown:
                    pending.extend(unknown)
                else:
                    self._varying[last] = not reads or any(self._varying[operand] for operand in reads)
                    self._varying[last] &= node.op_type != "Constant"
        return self._varying[value]

    def _session(
        self, nodes: list[ir.Node], given: list[ir.Value], outputs: list[ir.Value]
    ) -> tuple[ort.InferenceSession, dict[str, Array | ort.OrtValue]]:
        """Return a session that computes `outputs`, and the weights that it is fed beside the given values."""
        graph = self.model.graph
        read = [value for node in nodes for value in _reads(node) if value.is_initializer()]
        piece = ir.GraphView(
            given,
            outputs,
            nodes=nodes,
            initializers=tuple(dict.fromkeys(read)),
            opset_imports=graph.opset_imports,
            name="piece",
        ).clone()
        for value, source in zip(piece.inputs, given, strict=True):
            value.type = ir.TensorType(ir.DataType.from_numpy(self._states[0][source].dtype))
            value.shape = None
        model = ir.Model(piece, ir_version=self.model.ir_version, functions=list(self.model.functions.values()))
        names = [str(value.name) for value in outputs]
        exposed = ExposedGraph(model, wanted=names, threads=self.threads)
        session = exposed.session(range(len(exposed.nodes)), names)
        fed = [each.name for each in session.get_inputs()]
        return session, {name: exposed.shared[name] for name in fed if name in exposed.shared}


def _reads(node: ir.Node) -> list[ir.Value]:
    """Return what a node and its subgraphs read of the graph that the node is in."""
    found = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) and not attribute.is_ref():
            inner = [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs()
            for graph in inner:
                for each in graph.all_nodes():
                    found += [value for value in each.inputs if value is not None and value.graph is node.graph]
    return list(dict.fromkeys(found))
