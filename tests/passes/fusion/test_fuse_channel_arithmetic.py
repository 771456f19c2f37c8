from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.fusion.fuse_channel_arithmetic import FuseChannelArithmetic
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

# operator -> (the node, the shapes of its weights, the constant's shape, input, output)
SOURCES: dict[str, tuple[str, dict[str, tuple[int, ...]], str, str, str]] = {
    "Conv": ("Conv (x, w, b)", {"w": (6, 4, 3, 3), "b": (6,)}, "6,1,1", "N,4,5,5", "N,6,3,3"),
    "Conv without a bias": ("Conv (x, w)", {"w": (6, 4, 3, 3)}, "1,6,1,1", "N,4,5,5", "N,6,3,3"),
    "Conv in groups": ("Conv <group = 2> (x, w, b)", {"w": (6, 2, 3, 3), "b": (6,)}, "6,1,1", "N,4,5,5", "N,6,3,3"),
    "depthwise Conv": ("Conv <group = 4> (x, w)", {"w": (4, 1, 3, 3)}, "4,1,1", "N,4,5,5", "N,4,3,3"),
    "ConvTranspose in groups": (
        "ConvTranspose <group = 2> (x, w, b)",
        {"w": (4, 3, 2, 2), "b": (6,)},
        "6,1,1",
        "N,4,5,5",
        "N,6,6,6",
    ),
    "BatchNormalization": (
        "BatchNormalization (x, w, b, m, v)",
        {"w": (4,), "b": (4,), "m": (4,), "v": (4,)},
        "4,1,1",
        "N,4,5,5",
        "N,4,5,5",
    ),
    "InstanceNormalization": ("InstanceNormalization (x, w, b)", {"w": (4,), "b": (4,)}, "4,1", "N,4,5", "N,4,5"),
    "LayerNormalization": ("LayerNormalization (x, w)", {"w": (4,)}, "4", "N,5,4", "N,5,4"),
    "Gemm": ("Gemm (x, w, b)", {"w": (4, 6), "b": (6,)}, "6", "N,4", "N,6"),
    "Gemm of a transposed weight": ("Gemm <transB = 1> (x, w)", {"w": (6, 4)}, "1,6", "N,4", "N,6"),
    "Gemm that scales": ("Gemm <alpha = 2.0> (x, w, b)", {"w": (4, 6), "b": (1, 6)}, "6", "N,4", "N,6"),
}
SCALED: dict[str, tuple[str, dict[str, tuple[int, ...]], str, str, str]] = {
    "MatMul": ("MatMul (x, w)", {"w": (4, 6)}, "6", "N,5,4", "N,5,6"),
    "RMSNormalization": ("RMSNormalization (x, w)", {"w": (4,)}, "1,4", "N,5,4", "N,5,4"),
}


def _model(case: tuple[str, dict[str, tuple[int, ...]], str, str, str], rest: str, *, constant: str) -> ir.Model:
    body, weights, _, inside, outside = case
    shapes = {**weights, "k": tuple(int(dim) for dim in constant.split(",") if dim)}
    extra = "".join(f", float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    model = graph_from(f"g (float[{inside}] x{extra}) => (float[{outside}] y) {{ p = {body} {rest} }}")
    arrays = {name: random_array(*shape, seed=index) for index, (name, shape) in enumerate(shapes.items())}
    arrays["k"] = np.abs(arrays["k"]) + 0.5
    if "v" in arrays:
        arrays["v"] = np.abs(arrays["v"]) + 0.5
    return add_weights(model, **arrays)


@pytest.mark.parametrize("constant", ["each", "1", ""])
@pytest.mark.parametrize("rest", ["y = Mul (p, k)", "y = Div (p, k)", "y = Add (k, p)", "y = Sub (p, k)"])
@pytest.mark.parametrize("case", SOURCES)
def test_each_operator_takes_each_kind(case: str, rest: str, constant: str) -> None:
    source = SOURCES[case]
    constant = source[2] if constant == "each" else constant
    after, result = rewrite(_model(source, rest, constant=constant), FuseChannelArithmetic())
    assert operators(after) == [source[0].split()[0]]
    assert len(result.applied) == 1


@pytest.mark.parametrize("rest", ["y = Mul (k, p)", "y = Div (p, k)"])
@pytest.mark.parametrize("case", SCALED)
def test_operators_without_a_bias_take_scales(case: str, rest: str) -> None:
    source = SCALED[case]
    after, _ = rewrite(_model(source, rest, constant=source[2]), FuseChannelArithmetic())
    assert operators(after) == [source[0].split()[0]]


@pytest.mark.parametrize("case", SCALED)
def test_operators_without_a_bias_take_no_shift(case: str) -> None:
    source = SCALED[case]
    after, result = rewrite(_model(source, "y = Add (p, k)", constant=source[2]), FuseChannelArithmetic())
    assert operators(after)[-1] == "Add"
    assert not result.applied


CHAINS = {
    "a bias": ("a = Add (p, c) y = Mul (a, k)", "6", "N,5,6", ["MatMul", "Add"]),
    "a bias and one number": ("a = Add (c, p) y = Mul (a, k)", "", "N,5,6", ["MatMul", "Add"]),
    "a bias and a Transpose": (
        "a = Add (p, c) t = Transpose <perm = [0, 2, 1]> (a) y = Mul (t, k)",
        "6,1",
        "N,6,5",
        ["MatMul", "Add", "Transpose"],
    ),
    "a Transpose": ("t = Transpose <perm = [2, 0, 1]> (p) y = Div (t, k)", "6,1,1", "6,N,5", ["MatMul", "Transpose"]),
}


@pytest.mark.parametrize("case", CHAINS)
def test_a_scale_goes_through_transposes_and_the_bias(case: str) -> None:
    rest, constant, outside, left = CHAINS[case]
    source = ("MatMul (x, w)", {"w": (4, 6), "c": (6,)}, "", "N,5,4", outside)
    after, result = rewrite(_model(source, rest, constant=constant), FuseChannelArithmetic())
    assert operators(after) == left
    assert len(result.applied) == 1
    _, second = rewrite(after, FuseChannelArithmetic())
    assert not second.applied


@pytest.mark.parametrize(
    ("rest", "constant", "outside"),
    [
        ("y = Mul (p, k)", "5,1", "N,5,6"),  # one number for each row
        ("t = Transpose <perm = [0, 2, 1]> (p) y = Mul (t, k)", "5", "N,6,5"),
        ("t = Transpose <perm = [0, 2, 1]> (p) a = Add (t, e) y = Mul (a, k)", "6,1", "N,6,5"),  # a bias of rows
        ("y = Mul (p, k)", "5,6", "N,5,6"),
        ("y = Mul (p, k)", "1,1,1,1", "1,N,5,6"),  # adds an axis
        ("y = Div (k, p)", "6", "N,5,6"),
        ("r = Relu (p) y = Mul (r, k)", "6", "N,5,6"),
    ],
)
def test_another_constant_stays(rest: str, constant: str, outside: str) -> None:
    source = ("MatMul (x, w)", {"w": (4, 6), "e": (5,)}, "", "N,5,4", outside)
    model = _model(source, rest, constant=constant)
    after, result = rewrite(model, FuseChannelArithmetic())
    assert operators(after) == operators(model)
    assert not result.applied


def test_a_factor_of_the_gemm_reads_no_weight() -> None:
    after, _ = rewrite(_model(SOURCES["Gemm"], "y = Mul (p, k)", constant=""), FuseChannelArithmetic(max_bytes=0))
    (gemm,) = after.graph
    assert {"alpha", "beta"} <= set(gemm.attributes)
    assert "w" in after.graph.initializers


@pytest.mark.parametrize(
    ("case", "rest", "constant", "reason"),
    [
        ("Conv", "r = Neg (p) q = Mul (p, k) y = Add (q, r)", "6,1,1", "output 'p' also feeds r"),
        ("Gemm that scales", "y = Add (p, k)", "6", ""),
    ],
)
def test_each_refusal_says_why(case: str, rest: str, constant: str, reason: str) -> None:
    source = SOURCES[case]
    if not reason:
        source = ("Gemm <beta = 2.0> (x, w, b)", *source[1:])
        reason = "the Gemm scales its bias"
    after, result = rewrite(_model(source, rest, constant=constant), FuseChannelArithmetic())
    assert operators(after)[-1] == "Add"
    assert reasons(result) == [reason]


def test_a_weight_over_the_limit_is_refused() -> None:
    _, result = rewrite(_model(SCALED["MatMul"], "y = Mul (p, k)", constant="6"), FuseChannelArithmetic(max_bytes=95))
    assert reasons(result) == ["the weight 'w' has 96 bytes, over max_bytes=95"]


def test_a_large_weight_that_others_read_is_refused() -> None:
    body = "p = MatMul (x, w) y = Mul (p, k) z = MatMul (x, w)"
    text = f"g (float[N,4] x, float[4,5000] w, float[5000] k) => (float[N,5000] y, float[N,5000] z) {{ {body} }}"
    model = add_weights(graph_from(text), w=random_array(4, 5000), k=random_array(5000))
    _, result = rewrite(model, FuseChannelArithmetic())
    assert reasons(result) == ["the weight 'w' is read by other nodes as well"]


def test_a_weight_that_varies_is_refused() -> None:
    text = "g (float[N,4] x, float[4,6] w, float k) => (float[N,6] y) { p = Gemm (x, w) y = Mul (p, k) }"
    _, result = rewrite(add_weights(graph_from(text), k=np.array(2, dtype=np.float32)), FuseChannelArithmetic())
    assert reasons(result) == ["the weight or bias of the Gemm is not constant"]


def test_a_division_by_zero_is_refused() -> None:
    model = _model(SCALED["MatMul"], "y = Div (p, k)", constant="6")
    model.graph.initializers["k"].const_value = ir.Tensor(np.zeros(6, dtype=np.float32), name="k")
    _, result = rewrite(model, FuseChannelArithmetic())
    assert reasons(result) == ["the constant is 0 or not finite"]


def test_a_weight_that_would_overflow_is_refused() -> None:
    text = "g (float16[N,4] x, float16[4,6] w, float16 k) => (float16[N,6] y) { p = MatMul (x, w) y = Mul (p, k) }"
    weight, factor = np.full((4, 6), 60000, dtype=np.float16), np.array(2, dtype=np.float16)
    _, result = rewrite(add_weights(graph_from(text), w=weight, k=factor), FuseChannelArithmetic())
    assert reasons(result) == ["the scaled weight is not finite"]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("p = MatMul (x, w)", "a = Mul (p, k)"),
        ("p = MatMul (x, w)", "q = Mul (p, k) a = Relu (q)"),
        ("p = MatMul (x, w) t = Transpose <perm = [1, 0]> (p)", "a = Mul (t, k)"),
        ("p = Gemm (x, w)", "t = Transpose <perm = [1, 0]> (p) a = Mul (t, k)"),
        ("p = Gemm (x, w)", "a = Add (p, k)"),
    ],
)
def test_a_constant_in_a_branch_leaves_the_weight_outside(outer: str, inner: str) -> None:
    then, other = f"float[4,4] a) {{ {inner} }}", "float[4,4] b) { b = Neg (x) }"
    body = f"{outer} y = If (c) <then_branch = t () => ({then}, else_branch = e () => ({other}>"
    model = graph_from(f"g (float[4,4] x, float[4,4] w, float k, bool c) => (float[4,4] y) {{ {body} }}")
    add_weights(model, w=random_array(4, 4), k=np.array(3, dtype=np.float32))
    feeds = tuple({"x": random_array(4, 4, seed=1), "c": np.array(chosen)} for chosen in (True, False))
    _, result = rewrite(model, FuseChannelArithmetic(), feeds=feeds)
    assert reasons(result) == ["part of the chain lies in another graph"]


def test_a_weight_that_would_underflow_is_refused() -> None:
    text = "g (float16[1,4] x, float16[4,6] w, float16 k) => (float16[1,6] y) { p = MatMul (x, w) y = Mul (p, k) }"
    weight, factor = np.full((4, 6), 1e-3, dtype=np.float16), np.array(1e-5, dtype=np.float16)
    _, result = rewrite(add_weights(graph_from(text), w=weight, k=factor), FuseChannelArithmetic())
    assert reasons(result) == ["the scaled weight underflows"]


def test_zeros_in_the_weight_do_not_underflow() -> None:
    text = "g (float[N,4] x, float[4,6] w, float k) => (float[N,6] y) { p = MatMul (x, w) y = Mul (p, k) }"
    weight, factor = np.eye(4, 6, dtype=np.float32), np.array(0, dtype=np.float32)
    after, _ = rewrite(
        add_weights(graph_from(text), w=weight, k=np.array(0.5, dtype=np.float32)), FuseChannelArithmetic()
    )
    assert operators(after) == ["MatMul"]
    after, result = rewrite(add_weights(graph_from(text), w=weight, k=factor), FuseChannelArithmetic())
    assert operators(after) == ["MatMul", "Mul"]
    assert reasons(result) == ["the scaled weight underflows"]


def test_a_factor_that_the_gemm_cannot_hold_is_refused() -> None:
    text = "g (double[N,4] x, double[4,6] w, double k) => (double[N,6] y) { p = Gemm (x, w) y = Mul (p, k) }"
    model = add_weights(graph_from(text), w=random_array(4, 6).astype(np.float64), k=np.array(0.1))
    _, result = rewrite(model, FuseChannelArithmetic())
    assert reasons(result) == ["the scaled alpha or beta is not a number of 32 bits"]
