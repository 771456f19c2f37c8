"""LSTM with int8 weights, its input and state quantized at run time (com.microsoft DynamicQuantizeLSTM)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from passes.legalize.contrib import DOMAIN, insert_contrib
from passes.matching import constant_tensor, input_at, integer
from passes.quantize.weights import quantize_weight

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from passes.base import Context, Recorder
    from passes.editing import Editor
    from passes.quantize.scheme import Granularity

    _Parts = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int8]]

_OPERATOR = "DynamicQuantizeLSTM"
_STEPS, _BATCH = 24, 2
_NORMAL_MEDIAN = 0.6745


def quantize_lstm(
    node: ir.Node,
    editor: Editor,
    context: Context,
    recorder: Recorder,
    granularity: Granularity,
    *,
    least_sqnr_db: float,
) -> None:
    """Replace `node` where the runtime has the kernel and the layer keeps `least_sqnr_db` on random data."""
    rule = "int8 LSTM"
    reason = _obstacle(node, context)
    if reason:
        recorder.refuse(node, reason, rule)
        return
    magnitude = 127 if context.capabilities.quantization.weight_bits == 8 else 63
    quantized = [_quantized(node, index, granularity, magnitude) for index in (1, 2)]
    measured = _measured_db(node, quantized, context)
    if not measured >= least_sqnr_db:  # NaN is no accuracy
        recorder.refuse(node, f"alone on random data it keeps {measured:.1f} dB only", rule)
        return
    if not recorder.may_apply(node, rule):
        return
    constants = [_constants(editor, node.inputs[index], parts) for index, parts in zip((1, 2), quantized, strict=True)]
    (w, w_scale, w_zero), (r, r_scale, r_zero) = constants
    rest = [input_at(node, index) for index in range(3, 8)]
    name, outputs = node.name, list(node.outputs)
    first = insert_contrib(
        editor,
        node,
        _OPERATOR,
        [node.inputs[0], w, r, *rest, w_scale, w_zero, r_scale, r_zero],
        like=outputs[0],
        outputs=len(outputs),
    )
    made = first.producer()
    assert made is not None
    for attribute in _attributes(node):
        made.attributes.add(attribute)
    for old, new in zip(outputs[1:], made.outputs[1:], strict=True):
        if old.name:
            new.name, new.type = editor.fresh_name(f"{old.name}_quantized"), old.type
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            kept, old.name = old.name, None
            new.name, new.shape = kept, old.shape
    weights = [node.inputs[1], node.inputs[2]]
    editor.take_over(outputs[0], first)
    made.name = name
    for value in weights:
        assert value is not None
        editor.drop_constant(value)


def _constants(editor: Editor, weight: ir.Value | None, parts: _Parts) -> list[ir.Value]:
    """Return initializers of codes, scales and zero points."""
    codes, scale, zero = parts
    name = str(weight.name) if weight is not None else "weight"
    return [
        editor.constant(codes, f"{name}_quantized"),
        editor.constant(scale, f"{name}_scale"),
        editor.constant(zero, f"{name}_zero_point"),
    ]


def _attributes(node: ir.Node) -> list[ir.Attr]:
    """Return the attributes that both operators have: `layout`, which must be 0, is not among them."""
    return [attribute for name, attribute in node.attributes.items() if name != "layout"]


def _obstacle(node: ir.Node, context: Context) -> str:
    if not context.capabilities.has_kernel(_OPERATOR, domain=DOMAIN):
        return f"the target has no {DOMAIN} {_OPERATOR}"
    if integer(node, "layout", 0):
        return "its batch comes first, which the int8 kernel does not take"
    for index in (1, 2):
        tensor = constant_tensor(input_at(node, index))
        if tensor is None or tensor.dtype.name != "FLOAT" or len(tensor.shape) != 3:
            return "its weights are not constant float32"
        if not np.isfinite(tensor.numpy()).all():
            return "its weights have entries that are not finite"
    return ""


def _quantized(node: ir.Node, index: int, granularity: Granularity, magnitude: int) -> _Parts:
    """Return codes [D, I, 4H], scales and zero points ([D, 4H], or [D]) of the weight [D, 4H, I]."""
    tensor = constant_tensor(node.inputs[index])
    assert tensor is not None
    array = np.asarray(tensor.numpy(), np.float32)
    directions, gates, size = array.shape
    flat = array.reshape(directions * gates, size) if granularity == "channel" else array.reshape(directions, -1)
    found = quantize_weight(flat, axis=0, magnitude=magnitude)
    codes = np.ascontiguousarray(found.codes.reshape(array.shape).transpose(0, 2, 1))
    scale = found.scale.reshape(directions, -1) if granularity == "channel" else found.scale
    return codes, scale, np.zeros(scale.shape, np.int8)


def _measured_db(node: ir.Node, quantized: Sequence[_Parts], context: Context) -> float:
    """Return the SQNR of the layer alone with int8 weights, over normal inputs as large as those calibrated, or 1."""
    import onnx_ir as ir

    from passes.execution import run_model

    weights = constant_tensor(node.inputs[1])
    assert weights is not None
    seen = context.ranges.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
    deviation = seen.typical / _NORMAL_MEDIAN if seen is not None and seen.typical > 0 else 1.0
    size = (_STEPS, _BATCH, int(weights.shape.numpy()[2]))
    x = np.random.default_rng(0).normal(0, deviation, size).astype(np.float32)
    found = []
    for parts in (None, quantized):
        fed = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(x.shape))
        constants = [_constant(f"c{index}", input_at(node, index)) for index in (1, 2, 3)]
        inputs: list[ir.Value | None] = [fed, *constants, None, None, None, _constant("p", input_at(node, 7))]
        if parts is not None:
            for index, (codes, scale, zero) in enumerate(parts):
                inputs[1 + index] = _initializer(f"codes{index}", codes)
                inputs += [_initializer(f"scale{index}", scale), _initializer(f"zero{index}", zero)]
        output = ir.Value(name="y", type=ir.TensorType(ir.DataType.FLOAT))
        op_type, domain = ("LSTM", "") if parts is None else (_OPERATOR, DOMAIN)
        layer = ir.Node(domain, op_type, inputs, _attributes(node), outputs=[output], name="layer")
        graph = ir.Graph(
            [fed],
            [output],
            nodes=[layer],
            initializers=[value for value in inputs[1:] if value is not None],
            opset_imports={"": 17, DOMAIN: 1},
            name="layer",
        )
        found.append(run_model(ir.Model(graph, ir_version=8), [{"x": x}])[0]["y"].astype(np.float64))
    error = float(np.square(found[0] - found[1]).sum())
    return float(10 * np.log10(np.square(found[0]).sum() / max(error, np.finfo(np.float64).tiny)))


def _constant(name: str, value: ir.Value | None) -> ir.Value | None:
    tensor = constant_tensor(value)
    return None if tensor is None else _initializer(name, np.asarray(tensor.numpy()))


def _initializer(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    import onnx_ir as ir

    tensor = ir.Tensor(array, name=name)
    return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
