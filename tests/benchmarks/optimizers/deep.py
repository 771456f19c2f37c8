"""Decoders of any depth, written node by node in the manner of PyTorch's legacy exporter, with small weights."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HIDDEN, HEADS, INNER, VOCABULARY = 64, 4, 128, 256
HEAD = HIDDEN // HEADS
LONGEST = 512

LAYER = """
p2 = Constant <value_float = 2.0> ()
sq1 = Pow (x, p2)
ms1 = ReduceMean <keepdims = 1> (sq1, last_axis)
me1 = Add (ms1, epsilon)
rt1 = Sqrt (me1)
one1 = Constant <value_float = 1.0> ()
rs1 = Div (one1, rt1)
nx1 = Mul (x, rs1)
n1 = Mul (norm1, nx1)
q = MatMul (n1, wq)
k = MatMul (n1, wk)
v = MatMul (n1, wv)
shape = Shape (n1)
i0 = Constant <value_int = 0> ()
batch = Gather <axis = 0> (shape, i0)
i1 = Constant <value_int = 1> ()
length = Gather <axis = 0> (shape, i1)
batch1 = Unsqueeze (batch, first_axis)
length1 = Unsqueeze (length, first_axis)
split_shape = Concat <axis = 0> (batch1, length1, minus_one, head)
q4 = Reshape (q, split_shape)
k4 = Reshape (k, split_shape)
v4 = Reshape (v, split_shape)
qt = Transpose <perm = [0, 2, 1, 3]> (q4)
kt = Transpose <perm = [0, 2, 1, 3]> (k4)
vt = Transpose <perm = [0, 2, 1, 3]> (v4)
qc = Mul (qt, cosine)
qh2 = Slice (qt, half, end, last_axis)
qn = Neg (qh2)
qh1 = Slice (qt, zero, half, last_axis)
qr = Concat <axis = -1> (qn, qh1)
qs = Mul (qr, sine)
qe = Add (qc, qs)
kc = Mul (kt, cosine)
kh2 = Slice (kt, half, end, last_axis)
kn = Neg (kh2)
kh1 = Slice (kt, zero, half, last_axis)
kr = Concat <axis = -1> (kn, kh1)
ks = Mul (kr, sine)
ke = Add (kc, ks)
kT = Transpose <perm = [0, 1, 3, 2]> (ke)
scores = MatMul (qe, kT)
scaled = Mul (scores, scale)
masked = Add (scaled, mask)
weights = Softmax <axis = -1> (masked)
mixed = MatMul (weights, vt)
back = Transpose <perm = [0, 2, 1, 3]> (mixed)
shape2 = Shape (n1)
j0 = Constant <value_int = 0> ()
batch2 = Gather <axis = 0> (shape2, j0)
j1 = Constant <value_int = 1> ()
length2 = Gather <axis = 0> (shape2, j1)
batch3 = Unsqueeze (batch2, first_axis)
length3 = Unsqueeze (length2, first_axis)
join_shape = Concat <axis = 0> (batch3, length3, minus_one)
joined = Reshape (back, join_shape)
o = MatMul (joined, wo)
y = Add (x, o)
p3 = Constant <value_float = 2.0> ()
sq2 = Pow (y, p3)
ms2 = ReduceMean <keepdims = 1> (sq2, last_axis)
me2 = Add (ms2, epsilon)
rt2 = Sqrt (me2)
one2 = Constant <value_float = 1.0> ()
rs2 = Div (one2, rt2)
nx2 = Mul (y, rs2)
n2 = Mul (norm2, nx2)
gate = MatMul (n2, wg)
sig = Sigmoid (gate)
silu = Mul (gate, sig)
up = MatMul (n2, wu)
inner = Mul (silu, up)
down = MatMul (inner, wd)
out = Add (y, down)
"""

BEFORE = """
tokens = Gather <axis = 0> (embedding, input_ids)
shape = Shape (input_ids)
i1 = Constant <value_int = 1> ()
length = Gather <axis = 0> (shape, i1)
length1 = Unsqueeze (length, first_axis)
cosine = Slice (cosines, zero, length1, row_axis)
sine = Slice (sines, zero, length1, row_axis)
rows = Slice (causal, zero, length1, row_axis)
mask = Slice (rows, zero, length1, last_axis)
"""

SHARED = ("epsilon", "scale", "cosine", "sine", "mask", "first_axis", "row_axis", "last_axis", "zero", "half", "end")
SHARED += ("minus_one", "head")
WEIGHTS = {
    "norm1": (HIDDEN,),
    "norm2": (HIDDEN,),
    "wq": (HIDDEN, HIDDEN),
    "wk": (HIDDEN, HIDDEN),
    "wv": (HIDDEN, HIDDEN),
    "wo": (HIDDEN, HIDDEN),
    "wg": (HIDDEN, INNER),
    "wu": (HIDDEN, INNER),
    "wd": (INNER, HIDDEN),
}


def deep_model(layers: int) -> onnx.ModelProto:
    """Return input_ids [batch, sequence] -> hidden states [batch, sequence, 64] through `layers` equal blocks."""
    random = np.random.default_rng(0)
    nodes = [*onnx.parser.parse_graph(graph_text(BEFORE)).node]
    for node in nodes:
        rename(node, {})
    tensors = constants(random)
    block = onnx.parser.parse_graph(graph_text(LAYER)).node
    x = "tokens"
    for layer in range(layers):
        names = {"x": x} | {name: name for name in SHARED}
        for node in block:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            rename(copy, names, prefix=f"layers.{layer}.")
            nodes.append(copy)
        for name, shape in WEIGHTS.items():
            array = random.normal(0, 0.1, shape) + (1.0 if len(shape) == 1 else 0.0)
            tensors[f"layers.{layer}.{name}"] = array.astype(np.float32)
        x = f"layers.{layer}.out"
    graph = helper.make_graph(
        nodes,
        f"deep{layers}",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["batch", "sequence", HIDDEN])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="pytorch")
    onnx.checker.check_model(model)
    return model


def graph_text(lines: str) -> str:
    return f"agraph (float[N] ignored_in) => (float[N] ignored_out) {{{lines}}}"


def rename(node: onnx.NodeProto, names: dict[str, str], prefix: str = "") -> None:
    for values in (node.input, node.output):
        values[:] = [names.get(value, prefix + value) for value in values]
    node.name = f"{node.op_type}/{node.output[0]}"


def constants(random: np.random.Generator) -> dict[str, np.ndarray]:
    angles = np.arange(LONGEST)[:, None] / 10000.0 ** (np.arange(HEAD // 2) * 2 / HEAD)  # [S, D / 2]
    angles = np.concatenate([angles, angles], axis=1)[None, None]  # [1, 1, S, D]
    integers = {"first_axis": 0, "row_axis": 2, "last_axis": -1, "zero": 0, "half": HEAD // 2, "end": HEAD}
    integers |= {"minus_one": -1, "head": HEAD}
    return {
        "embedding": random.normal(0, 1, (VOCABULARY, HIDDEN)).astype(np.float32),
        "cosines": np.cos(angles).astype(np.float32),
        "sines": np.sin(angles).astype(np.float32),
        "causal": np.triu(np.full((1, 1, LONGEST, LONGEST), np.finfo(np.float32).min, np.float32), 1),
        "epsilon": np.array(1e-6, np.float32),
        "scale": np.array(HEAD**-0.5, np.float32),
        **{name: np.array([value], np.int64) for name, value in integers.items()},
    }
