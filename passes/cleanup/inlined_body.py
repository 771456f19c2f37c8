"""A subgraph's content moved to the graph around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from passes.editing import Editor


def take_out(body: ir.Graph, before: ir.Node, editor: Editor) -> list[ir.Value]:
    """Return the results of `body`, whose nodes now stand right before `before`, and whose weights are the model's.

    Names that the rest of the model uses as well become fresh ones.
    """
    graph = before.graph
    assert graph is not None
    results = list(body.outputs)
    body.outputs.clear()
    for name, value in list(body.initializers.items()):
        del body.initializers[name]
        value.name = editor.fresh_name(name)
        editor.model.graph.register_initializer(value)
    steps = list(body)
    body.remove(steps)
    _rename(steps, editor)
    graph.insert_before(before, steps)
    return results


def why_not_named(outputs: Sequence[ir.Value], results: Sequence[ir.Value], body: ir.Graph, *, place: str) -> str:
    """Return why `results` cannot take the names of those `outputs` that are the graph's; empty when they can.

    A value from outside of the body has a name that must stay, and one value cannot have two. place: "branch", "body".
    """
    seen: set[ir.Value] = set()
    for output, result in zip(outputs, results, strict=True):
        producer = result.producer()
        if output.is_graph_output() and (producer is None or producer.graph is not body or result in seen):
            return f"the {place} hands '{result.name}' on as the output '{output.name}' of the graph"
        seen.add(result)
    return ""


def _rename(steps: list[ir.Node], editor: Editor) -> None:
    """Give the values and nodes that come out, with all that is in their own subgraphs, unique names."""
    import onnx_ir as ir

    for step in steps:
        for value in step.outputs:
            if value.name:
                value.name = editor.fresh_name(value.name)
        if step.name:
            step.name = editor.fresh_name(step.name)
        for attribute in step.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                inner = attribute.as_graph()
                for value in inner.inputs:
                    value.name = editor.fresh_name(str(value.name))
                _rename(list(inner), editor)
