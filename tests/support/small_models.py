"""Small graphs with symbolic dimensions, their inputs, and what ONNX Runtime without optimizations makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx.parser
import onnx_ir as ir

_HEADER = '<ir_version: 10, opset_import: ["" : 20]>'


@dataclass(frozen=True)
class SmallModel:
    """A graph as text, constants to fill in by name, and feeds for a size of its symbolic dimensions."""

    text: str
    constants: Mapping[str, np.ndarray]
    feeds: Callable[[int, int], dict[str, np.ndarray]]

    def model(self) -> ir.Model:
        proto = onnx.parser.parse_model(f"{_HEADER}\n{self.text}")
        model = ir.from_proto(proto)
        for name, array in self.constants.items():
            value = next(
                value for node in model.graph for value in node.inputs if value is not None and value.name == name
            )
            value.const_value = ir.tensor(array, name=name)
            value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
            model.graph.register_initializer(value)
        return model


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SMALL_MODELS: dict[str, SmallModel] = {
    "mlp": SmallModel(
        """mlp (float[batch, 6] x) => (float[batch, 3] y) {
            h = Gemm(x, w1, b1)
            a = Relu(h)
            m = MatMul(a, w2)
            y = Add(m, b2)
        }""",
        {"w1": _normal(1, 6, 16), "b1": _normal(2, 16), "w2": _normal(3, 16, 3), "b2": _normal(4, 3)},
        lambda batch, sequence: {"x": _normal(10 + batch, batch, 6)},
    ),
    "convolutions": SmallModel(
        """convolutions (float[batch, 3, 12, 12] image) => (float[batch, 5] logits) {
            c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w1, b1)
            r = Relu(c)
            d = Conv <group = 8, pads = [0, 0, 1, 1]> (r, w2)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            logits = Gemm <transB = 1> (f, w3, b3)
        }""",
        {
            "w1": _normal(1, 8, 3, 3, 3),
            "b1": _normal(2, 8),
            "w2": _normal(3, 8, 1, 2, 2),
            "w3": _normal(4, 5, 8),
            "b3": _normal(5, 5),
        },
        lambda batch, sequence: {"image": _normal(20 + batch, batch, 3, 12, 12)},
    ),
    "tokens": SmallModel(
        """tokens (int64[batch, sequence] ids, float[batch, sequence, 1] weights)
            => (float[batch, sequence, 8] states, float[batch, 8] pooled) {
            e = Gather(table, ids)
            g = Gelu(e)
            n = LayerNormalization <axis = -1> (g, scale, bias)
            states = MatMul(n, w)
            s = Mul(states, weights)
            pooled = ReduceSum <keepdims = 0> (s, axes)
        }""",
        {
            "table": _normal(1, 11, 8),
            "scale": _normal(2, 8),
            "bias": _normal(3, 8),
            "w": _normal(4, 8, 8),
            "axes": np.array([1], np.int64),
        },
        lambda batch, sequence: {
            "ids": np.random.default_rng(batch).integers(0, 11, (batch, sequence)),
            "weights": _normal(30 + batch, batch, sequence, 1),
        },
    ),
}


def unoptimized(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by name, computed by ONNX Runtime with its graph optimizations off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def sqnr_db(candidate: np.ndarray, reference: np.ndarray) -> float:
    """Return 10 log10(signal / error) in dB; inf when equal."""
    reference = reference.astype(np.float64)
    error = float(((candidate - reference) ** 2).sum())
    return float("inf") if error == 0 else 10 * float(np.log10((reference**2).sum() / error))
