"""Writing a placement into the graph: Q/DQ pairs on activations, smoothed where that pays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from passes.quantize.editing import GraphEditor
from passes.quantize.ranges import hull
from passes.quantize.scheme import QuantParameters, QuantScheme, activation_parameters
from passes.quantize.smoothing import Smoothing, best_smoothing
from passes.quantize.weight_insertion import WeightInsertion
from passes.quantize.weighted import weight_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.base import Recorder
    from passes.quantize.placement import Placement
    from passes.quantize.ranges import ActivationRange


def write(
    graph: ir.Graph,
    placement: Placement,
    scheme: QuantScheme,
    ranges: Mapping[str, ActivationRange],
    recorder: Recorder,
) -> None:
    """Insert everything that `placement` asks for; a value or weight gets one Q/DQ, however many operators read it.

    Float weights that nobody reads any more are dropped.
    """
    editor = GraphEditor(graph)
    smoothings: dict[ir.Value, Smoothing] = {}
    parameters: dict[ir.Value, QuantParameters] = {}
    for value, source in placement.scale_source.items():
        forms = placement.seen_through.get(source) or {source: None}
        covered = hull([ranges[str(form.name)] for form in forms])
        if value is source and scheme.smooth:
            smoothing = _smoothing(covered, list(placement.readers[value]), scheme)
            if smoothing is not None:
                smoothings[value], covered = smoothing, smoothing.covered
        parameters[value] = activation_parameters(covered, scheme)
    weights = WeightInsertion(editor, scheme, ranges, parameters, smoothings, recorder)
    for node in placement.operators:
        weights.write(node)
    for value, readers in placement.readers.items():
        _write_activation(editor, value, list(readers), parameters[value], smoothings.get(value))


def _smoothing(covered: ActivationRange, readers: list[tuple[ir.Node, int]], scheme: QuantScheme) -> Smoothing | None:
    """Return how to even out the channels of a value, when matrix products alone read its codes."""
    weights: list[npt.NDArray[np.floating]] = []
    for node, index in readers:
        weight = weight_of(node)
        if weight is None or (rows := weight.rows()) is None or index == weight.index:
            return None
        weights.append(rows)
    return best_smoothing(covered, weights, symmetric=scheme.symmetric)


def _write_activation(
    editor: GraphEditor,
    value: ir.Value,
    readers: list[tuple[ir.Node, int]],
    parameters: QuantParameters,
    smoothing: Smoothing | None,
) -> None:
    import onnx_ir as ir

    name, shape = value.name, value.shape
    scale = editor.constant(f"{name}_scale", np.asarray(parameters.scale, np.float32))
    zero = editor.constant(f"{name}_zero_point", np.asarray(parameters.zero_point, parameters.dtype))
    code_type = ir.DataType.UINT8 if parameters.dtype == "uint8" else ir.DataType.INT8
    code = editor.value(f"{name}_quantized", code_type, shape)
    real = editor.value(f"{name}_dequantized", ir.DataType.FLOAT, shape)
    nodes: list[ir.Node] = []
    after, quantized = value.producer(), value
    if smoothing is not None:
        inverse = editor.constant(f"{name}_smoothing", (1 / smoothing.factors).astype(np.float32))
        quantized = editor.value(f"{name}_smoothed", ir.DataType.FLOAT, shape)
        nodes.append(ir.Node("", "Mul", [value, inverse], outputs=[quantized], name=f"{quantized.name}_node"))
    nodes.append(ir.Node("", "QuantizeLinear", [quantized, scale, zero], outputs=[code], name=f"{code.name}_node"))
    nodes.append(ir.Node("", "DequantizeLinear", [code, scale, zero], outputs=[real], name=f"{real.name}_node"))
    editor.insert(after, *nodes)
    for node, index in readers:
        node.replace_input_with(index, real)
