"""ExpandContrib: each com.microsoft operator as standard ones, with the numbers of ONNX Runtime's kernel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, Pass, PassResult
from passes.expand.expand_contrib import ExpandContrib
from passes.legalize.fuse_bias_gelu import FuseBiasGelu
from passes.legalize.fuse_conv_activation import FuseConvActivation
from passes.legalize.fuse_embedding_norm import FuseEmbeddingNorm
from passes.legalize.fuse_gemm_activation import FuseGemmActivation
from passes.legalize.fuse_matmul_scale import FuseMatmulScale
from passes.legalize.fuse_skip_norm import FuseSkipNorm
from passes.legalize.lower_attention import LowerAttention
from passes.legalize.lower_rotary_embedding import LowerRotaryEmbedding
from passes.pipeline import Pipeline
from passes.sample_inputs import generated_inputs
from tests.support.contrib import CONTRIB
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

Feeds = tuple[Mapping[str, np.ndarray], ...]


def expanded(model: ir.Model, *, feeds: Feeds | None = None) -> tuple[ir.Model, PassResult]:
    """Return the model in standard operators, its outputs compared with those of the com.microsoft kernels."""
    fed = feeds or generated_inputs(model)
    after, result = rewrite(model, ExpandContrib(), feeds=fed)
    again, second = rewrite(after, ExpandContrib(), feeds=fed)
    assert not second.applied
    assert ir.to_onnx_text(again) == ir.to_onnx_text(after)
    kept, nothing = rewrite(model, ExpandContrib(), capabilities=CONTRIB, feeds=fed)
    if not any(node.op_type in ("Gelu", "SimplifiedLayerNormalization") for node in model.graph):
        assert nothing.applied == ()
        assert ir.to_onnx_text(kept) == ir.to_onnx_text(model)
    return after, result


def ms(header: str, outputs: str, node: str, **arrays: np.ndarray) -> ir.Model:
    return add_weights(graph_from(f"g ({header}) => ({outputs}) {{ {node} }}"), **arrays)


ROW = "float[B,S,8]"
MS = "com.microsoft"


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("y = com.microsoft.SkipLayerNormalization (x, s, g, b)", ["Add", "LayerNormalization"]),
        (
            "y = com.microsoft.SkipLayerNormalization <epsilon = 0.1> (x, s, g, , b)",
            ["Add", "Add", "LayerNormalization"],
        ),
        ("y = com.microsoft.SkipSimplifiedLayerNormalization (x, s, g)", ["Add", "RMSNormalization"]),
        ("y = com.microsoft.SkipSimplifiedLayerNormalization (x, s, g, b)", ["Add", "Add", "RMSNormalization"]),
        ("y = SimplifiedLayerNormalization <axis = -1> (x, g)", ["RMSNormalization"]),
        ("y = com.microsoft.BiasGelu (x, b)", ["Add", "Gelu"]),
        ("y = com.microsoft.FastGelu (x, b)", ["Add", "Gelu"]),
        ("y = com.microsoft.FastGelu (x)", ["Gelu"]),
        ("y = com.microsoft.Gelu (x)", ["Gelu"]),
        ("y = com.microsoft.QuickGelu (x)", ["Mul", "Sigmoid", "Mul"]),
        ("y = com.microsoft.QuickGelu <alpha = 1.0> (x)", ["Sigmoid", "Mul"]),
        ("y = com.microsoft.FusedMatMul <alpha = 0.5> (x, w)", ["MatMul", "Mul"]),
        ("y = com.microsoft.FusedMatMul <transB = 1> (x, w)", ["Transpose", "MatMul"]),
    ],
)
def test_norms_activations_and_products(node: str, expected: list[str]) -> None:
    arrays = {"g": random_array(8, seed=1), "b": random_array(8, seed=2), "w": random_array(8, 8, seed=3)}
    names = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in arrays.items())
    model = ms(f"{ROW} x, {ROW} s, {names}", f"{ROW} y", node, **arrays)
    after, result = expanded(model)
    assert operators(after) == expected
    assert [event.rule for event in result.applied] == [node.split("(")[0].split(" <")[0].split(".")[-1].split()[-1]]
    assert "com.microsoft" not in after.opset_imports


def test_the_sum_of_a_skip_norm_has_readers() -> None:
    node = "y, m, d, t = com.microsoft.SkipLayerNormalization (x, s, g) z = Neg (t)"
    model = ms(f"{ROW} x, {ROW} s, float[8] g", f"{ROW} y, {ROW} z", node, g=random_array(8))
    assert operators(expanded(model)[0]) == ["Add", "LayerNormalization", "Neg"]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("", []),
        ('activation = "Relu"', ["Relu"]),
        ('activation = "LeakyRelu", activation_params = [0.1]', ["LeakyRelu"]),
        ('activation = "Clip", activation_params = [-0.1, 0.2]', ["Clip"]),
        ('activation = "HardSigmoid", activation_params = [0.3, 0.4]', ["HardSigmoid"]),
    ],
)
def test_convolutions(activation: str, expected: list[str]) -> None:
    options = f"<pads = [1, 1, 1, 1]{', ' if activation else ''}{activation}>"
    model = ms(
        "float[N,2,5,5] x, float[N,3,5,5] r, float[3,2,3,3] w, float[3] b",
        "float[N,3,5,5] y",
        f"y = com.microsoft.FusedConv {options} (x, w, b, r)",
        w=random_array(3, 2, 3, 3),
        b=random_array(3, seed=1),
    )
    assert operators(expanded(model)[0]) == ["Conv", "Add", *expected]


def test_gemm() -> None:
    node = 'y = com.microsoft.FusedGemm <transB = 1, activation = "LeakyRelu", activation_alpha = 0.1> (x, w, b)'
    model = ms(
        "float[N,4] x, float[3,4] w, float[3] b", "float[N,3] y", node, w=random_array(3, 4), b=random_array(3, seed=1)
    )
    assert operators(expanded(model)[0]) == ["Gemm", "LeakyRelu"]


MASK = np.array([[1, 1, 0], [0, 0, 0]], np.int32)


@pytest.mark.parametrize("options", ["", ", scale = 0.3", ", unidirectional = 1", ", mask_filter_value = -3.0"])
def test_attention_with_padding(options: str) -> None:
    model = ms(
        "float[B,S,6] x, int32[B,S] m, float[6,24] w, float[24] b",
        f"{ROW} y",
        f"y = com.microsoft.Attention <num_heads = 2{options}> (x, w, b, m)",
        w=random_array(6, 24),
        b=random_array(24, seed=1),
    )
    after, _ = expanded(model, feeds=({"x": random_array(2, 3, 6), "m": MASK},))
    assert operators(after)[:3] == ["MatMul", "Add", "Split"]
    assert operators(after)[-1] == "Attention"


def test_multi_head_attention_with_biases_padding_and_cache() -> None:
    header = f"{ROW} q, float[B,T,8] k, float[B,T,8] v, float[24] b, int32[B,R] m"
    cache = "float[B,2,P,4] {}"
    model = ms(
        f"{header}, {cache.format('c0')}, {cache.format('d0')}",
        f"{ROW} y, float[B,2,R,4] c, float[B,2,R,4] d",
        "y, c, d = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v, b, m, , c0, d0)",
        b=random_array(24, seed=1),
    )
    feed = {name: random_array(2, size, 8, seed=size) for name, size in (("q", 2), ("k", 2), ("v", 2))}
    feed |= {name: random_array(2, 2, 1, 4, seed=seed) for seed, name in enumerate(("c0", "d0"))}
    after, _ = expanded(model, feeds=({**feed, "m": MASK},))
    assert operators(after)[:4] == ["Split", "Add", "Add", "Add"]


@pytest.mark.parametrize("shape", ["B,S,16", "B,2,S,8"])
def test_rotary_embedding_counts_its_positions(shape: str) -> None:
    model = ms(
        f"float[{shape}] x, int64[1] p, float[9,4] c, float[9,4] s",
        f"float[{shape}] y",
        "y = com.microsoft.RotaryEmbedding (x, p, c, s)",
        c=random_array(9, 4),
        s=random_array(9, 4, seed=1),
    )
    sizes = (2, 3, 16) if shape.count(",") == 2 else (2, 2, 3, 8)
    after, _ = expanded(model, feeds=({"x": random_array(*sizes), "p": np.array([4])},))
    assert operators(after)[-1] == "RotaryEmbedding"


STANDARD = {
    "attention": (
        """g (float[B,S,6] x, float[6,24] w, float[24] b) => (float[B,S,8] y) { p = MatMul (x, w) a = Add (p, b)
        q, k, v = Split <axis = -1, num_outputs = 3> (a)
        y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }""",
        {"w": (6, 24), "b": (24,)},
    ),
    "skip": (
        f"g ({ROW} x, {ROW} s, float[8] g) => ({ROW} y) {{ t = Add (x, s) y = LayerNormalization (t, g) }}",
        {"g": (8,)},
    ),
    "gelu": (f"g ({ROW} x, float[8] b) => ({ROW} y) {{ t = Add (x, b) y = Gelu (t) }}", {"b": (8,)}),
    "conv": (
        "g (float[N,2,5,5] x, float[3,2,3,3] w) => (float[N,3,3,3] y) { c = Conv (x, w) y = Relu (c) }",
        {"w": (3, 2, 3, 3)},
    ),
    "gemm": ("g (float[N,4] x, float[4,3] w) => (float[N,3] y) { c = Gemm (x, w) y = Tanh (c) }", {"w": (4, 3)}),
    "matmul": (
        """g (float[B,4,5] x, float[B,4,3] z) => (float[B,5,3] y) { t = Transpose <perm = [0, 2, 1]> (x)
        m = MatMul (t, z) h = Constant <value_float = 0.5> () y = Mul (m, h) }""",
        {},
    ),
    "rotary": (
        """g (float[B,4,8] x, float[1,4,4] c, float[1,4,4] s) => (float[B,4,8] y) {
        y = RotaryEmbedding <num_heads = 1> (x, c, s) }""",
        {},
    ),
    "embedding": (
        """g (int64[B,S] i, int64[B,S] t, float[9,8] w, float[7,8] p, float[2,8] u, float[8] g, float[8] b)
        => (float[B,S,8] y) { e = Gather (w, i) n = Shape <start = 1, end = 2> (i) z = Constant <value_ints = [0]> ()
        r = Slice (p, z, n, z) f = Gather (u, t) a = Add (e, r) s = Add (a, f) y = LayerNormalization (s, g, b) }""",
        {"w": (9, 8), "p": (7, 8), "u": (2, 8), "g": (8,), "b": (8,)},
    ),
}
STEPS: Mapping[str, Pass] = {
    "attention": LowerAttention(),
    "skip": FuseSkipNorm(),
    "gelu": FuseBiasGelu(),
    "conv": FuseConvActivation(),
    "gemm": FuseGemmActivation(),
    "matmul": FuseMatmulScale(),
    "rotary": LowerRotaryEmbedding(),
    "embedding": FuseEmbeddingNorm(),
}


@pytest.mark.parametrize("kind", list(STANDARD))
def test_what_legalisation_makes_comes_back(kind: str) -> None:
    text, shapes = STANDARD[kind]
    arrays = {name: random_array(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}
    model = add_weights(graph_from(text), **arrays)
    feeds: Feeds | None = None
    if kind == "embedding":
        feeds = ({"i": np.array([[1, 8, 0]]), "t": np.array([[0, 1, 1]])},)
    if kind == "rotary":  # one batch, for which the standard kernel of ONNX Runtime takes these caches
        feeds = ({"x": random_array(1, 4, 8), "c": random_array(1, 4, 4), "s": random_array(1, 4, 4)},)
    fused, made = rewrite(model, STEPS[kind], capabilities=CONTRIB, feeds=feeds or generated_inputs(model))
    assert made.applied
    after, result = rewrite(fused, ExpandContrib(), feeds=feeds or generated_inputs(model))
    assert result.applied
    assert {node.domain for node in after.graph} == {""}


@pytest.mark.parametrize(
    ("header", "outputs", "node", "reason"),
    [
        (
            f"{ROW} x, float[8] g",
            f"{ROW} y, float[B,S,1] m",
            "y, m = com.microsoft.SkipLayerNormalization (x, x, g)",
            "the mean",
        ),
        (f"{ROW} x", "float y", "y = com.microsoft.FusedMatMul <transBatchA = 1> (x, x)", "it moves the batch"),
        (
            f"{ROW} x, int32[B] m, float[8,24] w",
            f"{ROW} y",
            "y = com.microsoft.Attention <num_heads = 2> (x, w, , m)",
            "its mask",
        ),
        (
            "float[B,S,2,3,4] x",
            f"{ROW} y",
            "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x)",
            "query, key and value",
        ),
        (
            f"{ROW} q, float[B,T,8] k",
            f"{ROW} y",
            "y = com.microsoft.MultiHeadAttention <num_heads = 2, unidirectional = 1> (q, k, k)",
            "it is causal, and",
        ),
        ("float[N,4] x", "float y", 'y = com.microsoft.FusedGemm <activation = "Elu"> (x, x)', "its activation is Elu"),
        (
            f"{ROW} x, int64[B,S] p, float[9,4] c",
            f"{ROW} y",
            "y = com.microsoft.RotaryEmbedding <scale = 2.0> (x, p, c, c)",
            "it scales",
        ),
    ],
)
def test_what_is_refused(header: str, outputs: str, node: str, reason: str) -> None:
    model = ms(header, outputs, node)
    after, (result,) = Pipeline((ExpandContrib(),)).run(model, context=Context())
    assert operators(after) == operators(model)
    (found,) = reasons(result)
    assert found.startswith(reason)


def test_an_old_opset_lacks_the_operator() -> None:
    model = ms(f"{ROW} x, float[8] b", f"{ROW} y", "y = com.microsoft.BiasGelu (x, b)")
    model.graph.opset_imports[""] = 17
    _, (result,) = Pipeline((ExpandContrib(),)).run(model, context=Context())
    assert reasons(result) == ["Gelu needs opset 20"]
