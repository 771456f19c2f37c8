"""Perplexity of a graph's logits on ONNX Runtime and OpenVINO in fp32 arithmetic, and what its weights take up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Logits = Callable[[np.ndarray], np.ndarray]
"""Token ids [1, S] to logits [1, S, vocabulary]."""

SCALE_BITS = 16
"""Scales are counted so in every row: OpenVINO stores float16; ONNX Runtime wants the type of the activations."""


@dataclass(frozen=True, slots=True)
class Size:
    """What the matrices of a graph's 4- or 8-bit products take up, scales and zero points included."""

    weights: int = 0
    bits: float = 0.0

    def __add__(self, other: Size) -> Size:
        return Size(self.weights + other.weights, self.bits + other.bits)

    @property
    def bits_a_weight(self) -> float:
        return self.bits / self.weights if self.weights else 32.0

    @property
    def megabytes(self) -> float:
        return self.bits / 8e6


def perplexity(logits: Logits, scored: np.ndarray) -> float:
    """Return exp of the mean negative log likelihood of each next token of the sequences `scored` [sequences, S]."""
    losses = []
    for ids in scored:
        found = logits(ids[None])[0, :-1].astype(np.float64)  # [S - 1, vocabulary]
        found -= found.max(axis=-1, keepdims=True)
        losses.append(np.log(np.exp(found).sum(axis=-1)) - found[np.arange(len(found)), ids[1:]])
    return float(np.exp(np.concatenate(losses).mean()))


def on_onnxruntime(file: Path, *, threads: int) -> Logits:
    """Return the graph run by ONNX Runtime with its optimizations; MatMulNBits computes in fp32 (accuracy_level 0)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ids: session.run(None, {name: ids})[0]


def on_openvino(model: Any, *, threads: int) -> Logits:
    """Return an OpenVINO model, or the graph of a file, run in fp32, its weights' codes included."""
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "KV_CACHE_PRECISION": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = ov.Core().compile_model(str(model) if isinstance(model, Path) else model, "CPU", settings)
    return lambda ids: compiled([ids])[0]


def size_of_graph(model: onnx.ModelProto) -> Size:
    """Return the size of the matrices that MatMulNBits, or DequantizeLinear with blocks or channels, reads."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    total = Size()
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {each.name: each.i for each in node.attribute}
            bits = attributes.get("bits", 4)
            weights = attributes["K"] * attributes["N"]
            zeros = 0
            if len(node.input) > 3 and node.input[3]:
                tensor = tensors[node.input[3]]
                zeros = _elements(tensor) * (8 if tensor.data_type == onnx.TensorProto.UINT8 else SCALE_BITS)
            total += Size(weights, weights * bits + _elements(tensors[node.input[2]]) * SCALE_BITS + zeros)
        elif node.op_type == "DequantizeLinear" and len(tensors[node.input[0]].dims) == 2:
            codes, scales = tensors[node.input[0]], tensors[node.input[1]]
            bits = 4 if codes.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4) else 8
            zeros = _elements(scales) * bits if len(node.input) > 2 and node.input[2] else 0
            total += Size(_elements(codes), _elements(codes) * bits + _elements(scales) * SCALE_BITS + zeros)
    return total


def size_of_openvino(model: Any) -> Size:
    """Return the size of an OpenVINO model's constants of 4 and 8 bits, with the scales of their readers."""
    total = Size()
    for node in model.get_ops():
        kind = node.get_element_type().get_type_name() if node.get_type_name() == "Constant" else ""
        if kind not in ("u4", "i4", "u8", "i8") or node.get_output_size() != 1:
            continue
        shape = list(node.get_output_shape(0))
        elements = int(np.prod(shape))
        if elements < 1024:
            continue
        bits = 4 if kind.endswith("4") else 8
        is_zeros = shape[-1] == 1
        # a table of zero points has a last axis of 1, and as many entries as there are scales
        total += Size(0, elements * bits) if is_zeros else Size(elements, elements * bits + _scales(shape) * SCALE_BITS)
    return total


def _scales(shape: list[int]) -> int:
    return int(np.prod(shape[:-1]))


def _elements(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims))
