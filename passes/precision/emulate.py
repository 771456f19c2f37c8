"""A bfloat16 graph as float32 operators with every result rounded to bfloat16, for runtimes without its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_FREE = frozenset({"Cast", "Constant", "Identity"})


def has_bfloat16(model: ir.Model) -> bool:
    """Return whether a value of the model is bfloat16."""
    return any(
        value.dtype is not None and value.dtype.name == "BFLOAT16"
        for graph in model.graphs()
        for node in graph
        for value in (*node.inputs, *node.outputs)
        if value is not None
    )


def rounded_to_bfloat16(model: ir.Model) -> ir.Model:
    """Return a copy, sharing weights, that computes in float32 and rounds each bfloat16 result by two Casts.

    That is what an operator with bfloat16 inputs and result and float32 sums gives.
    """
    import onnx_ir as ir

    copy = model.clone()
    half, single = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    widened: dict[ir.Value, ir.Value] = {}
    number = 0

    def cast(value: ir.Value, dtype: ir.DataType) -> tuple[ir.Node, ir.Value]:
        nonlocal number
        number += 1
        made = ir.Value(name=f"{value.name}_rounded_{number}", type=ir.TensorType(dtype), shape=value.shape)
        attributes = [ir.AttrInt64("to", dtype)]
        return ir.Node("", "Cast", [value], attributes, outputs=[made], name=str(made.name)), made

    for graph in list(copy.graphs()):
        for node in list(graph):
            if node.op_type in _FREE and node.domain in ("", "ai.onnx"):
                continue
            for index, value in enumerate(node.inputs):
                if value is None or value.dtype != half:
                    continue
                if value not in widened:
                    wider, widened[value] = cast(value, single)
                    producer = value.producer()
                    if producer is not None:
                        assert producer.graph is not None
                        producer.graph.insert_after(producer, [wider])
                    else:
                        home = value.graph or copy.graph
                        home.insert_before(home[0], [wider])
                node.replace_input_with(index, widened[value])
            for value in node.outputs:
                if value.dtype != half:
                    continue
                readers = [(use.node, use.idx) for use in value.uses()]
                value.type = ir.TensorType(single)
                narrower, narrow = cast(value, half)
                graph.insert_after(node, [narrower])
                for reader, index in readers:
                    reader.replace_input_with(index, narrow)
                for index, output in enumerate(graph.outputs):
                    if output is value:
                        name, value.name = value.name, f"{value.name}_single"
                        narrow.name, graph.outputs[index] = name, narrow
    return copy
