"""What passes made of small rules share: facts and an editor made when the first rule asks, and the replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from passes.base import Context, PassResult, Recorder
from passes.dimensions import Dims
from passes.editing import Editor, forward
from passes.shapes import ShapeFacts, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[["ir.Node", "RuleScope"], bool]
"""Rewrites at a node and returns whether it did."""


@dataclass(slots=True)
class RuleScope:
    """One run of a pass over one model."""

    model: ir.Model
    recorder: Recorder
    seen: set[object] = field(default_factory=set)  # what a rule need not look at again in this run
    _facts: ShapeFacts | None = None
    _editor: Editor | None = None
    _places: dict[ir.Node, int] = field(default_factory=dict)

    @property
    def facts(self) -> ShapeFacts:
        """The shapes; inferred at the first question."""
        if self._facts is None:
            self._facts = infer_shapes(self.model)
        return self._facts

    @property
    def editor(self) -> Editor:
        if self._editor is None:
            self._editor = Editor(self.model)
        return self._editor

    def shape(self, value: ir.Value | None) -> Dims | None:
        return self.facts.shape(value)

    def first_of(self, nodes: Sequence[ir.Node]) -> ir.Node:
        """Return the node that comes first in the graph that all of them are in."""
        graph = nodes[0].graph
        if graph is not None and any(node not in self._places for node in nodes):
            self._places.update((node, place) for place, node in enumerate(graph))
        return min(nodes, key=self._places.__getitem__)

    def insert(self, before: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], **options: Any) -> ir.Value:
        """Return the output of a new node before `before`, named after its output."""
        return self.editor.insert(before, op_type, inputs, name=str(before.outputs[0].name), **options)

    def replace(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        rule: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Put one new node in the place of `node`, whose first output alone is read; False when the budget is spent."""
        if not self.recorder.may_apply(node, rule):
            return False
        self.put(node, op_type, inputs, attributes)
        return True

    def put(
        self,
        node: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Put one new node in the place of `node`, for which leave has been given."""
        output = node.outputs[0]
        new = self.insert(node, op_type, inputs, attributes=attributes, like=output)
        made = new.producer()
        if made is not None and node in self._places:
            self._places[made] = self._places[node]
        shape = None if self._facts is None else self._facts.shape(output)
        if shape is not None:
            self.facts.shapes[new] = shape
        self.editor.take_over(output, new)

    def forward(self, node: ir.Node, value: ir.Value, rule: str) -> bool:
        """Let readers of the node's first output read `value` instead; refuses to join two names of the interface."""
        output = node.outputs[0]
        if output.is_graph_output() and (
            value.producer() is None or value.graph is not output.graph or value.is_graph_output()
        ):
            self.recorder.refuse(node, f"it joins '{value.name}' to the output '{output.name}'", rule)
            return False
        if not self.recorder.may_apply(node, rule):
            return False
        forward(output, value)
        self.editor.drop(node)
        return True


def run_rules(
    name: str, rules: Mapping[str, Sequence[Rule]], model: ir.Model, context: Context, *, backwards: bool = False
) -> PassResult:
    """Try the rules of each node's operator in turn, until one applies, in one sweep over every graph."""
    scope = RuleScope(model, context.recorder(name))
    for graph in model.graphs():
        for node in reversed(list(graph)) if backwards else list(graph):
            if node.domain != "" or node.graph is not graph:
                continue
            for rule in rules.get(node.op_type, ()):
                if rule(node, scope):
                    break
    return scope.recorder.result()
