"""Rows made equally large before they are quantized together (token-wise quantization, Yao et al. 2022, 2206.01861).

An activation function lets one token be fifty times larger than all others, and a scale for the whole tensor then
leaves those a handful of codes. Dividing each row by its own peak, and multiplying its results by it, gives each row a
scale of its own on kernels that have one for all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.matching import opset_of, producer_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from passes.editing import Editor

_LEAST = {"Relu": 1e-12, "Gelu": 0.2, "Swish": 0.3, "HardSwish": 0.4, "Mish": 0.4}
"""Activations that are bounded below: their rows are as large as their greatest entry, or as this."""

_UNBOUNDED = ("LeakyRelu", "Elu", "Selu", "Celu", "Mul")
_LEAST_OPSET = 18
"""ReduceMax and ReduceMin take their axes as an input from this opset on."""


def has_loud_rows(value: ir.Value) -> bool:
    """Return whether an activation function, or a gate, makes the value: then single rows may be far larger."""
    return producer_of(value, *_LEAST, *_UNBOUNDED) is not None


def row_peaks(value: ir.Value, before: ir.Node, editor: Editor) -> ir.Value | None:
    """Return the greatest magnitude of each row of `value`, never 0, made in front of `before`; None below opset 18."""
    if opset_of(editor.model) < _LEAST_OPSET:
        return None
    shape = None if value.shape is None else [*value.shape.dims[:-1], 1]
    base = str(value.name)
    axes = editor.constant(np.array([-1], np.int64), f"{base}_axes")

    def made(op_type: str, inputs: list[ir.Value], suffix: str) -> ir.Value:
        one = editor.insert(before, op_type, inputs, name=f"{base}_{suffix}", dtype=value.dtype)
        one.shape = None
        return one

    producer = producer_of(value, *_LEAST)
    highest = made("ReduceMax", [value, axes], "highest")
    bounds = [highest]
    if producer is None:
        bounds.append(made("Neg", [made("ReduceMin", [value, axes], "lowest")], "depth"))
    least = 1e-12 if producer is None else _LEAST[producer.op_type]
    peaks = made("Max", [*bounds, editor.constant(np.array(least, np.float32), f"{base}_least")], "peaks")
    if shape is not None:
        import onnx_ir as ir

        peaks.shape = ir.Shape(shape)
    return peaks
