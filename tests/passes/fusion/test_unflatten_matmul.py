from __future__ import annotations

import numpy as np
import pytest

from passes.fusion.unflatten_matmul import UnflattenMatmul
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

SHAPES = """
    rows = Constant <value = int64[2] {-1, 4}> ()
    back = Constant <value = int64[3] {-1, 3, 6}> ()
"""


def _model(
    body: str, *, outputs: str = "float[N,3,6] y", weight: tuple[int, int] = (4, 6), bias: tuple[int, ...] = (6,)
):  # type: ignore[no-untyped-def]
    text = f"""g (float[N,3,4] x, float[{weight[0]},{weight[1]}] w, float[{",".join(map(str, bias))}] b)
        => ({outputs}) {{ {SHAPES} {body} }}"""
    return add_weights(graph_from(text), w=random_array(*weight), b=random_array(*bias, seed=1))


def _ops(model) -> list[str]:  # type: ignore[no-untyped-def]
    return [op for op in operators(model) if op not in ("Constant", "Identity")]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("f = Reshape (x, rows) p = Gemm (f, w) y = Reshape (p, back)", ["MatMul"]),
        ("f = Reshape (x, rows) p = Gemm (f, w, b) y = Reshape (p, back)", ["MatMul", "Add"]),
        ("f = Reshape (x, rows) p = Gemm <beta = 2.0> (f, w) y = Reshape (p, back)", ["MatMul"]),
        ("f = Reshape (x, rows) p = MatMul (f, w) y = Reshape (p, back)", ["MatMul"]),
        ("f = Reshape (x, rows) p = MatMul (f, w) a = Add (b, p) y = Reshape (a, back)", ["MatMul", "Add"]),
    ],
)
def test_each_form_loses_its_reshapes(body: str, left: list[str]) -> None:
    after, result = rewrite(_model(body), UnflattenMatmul())
    assert _ops(after) == left
    assert len(result.applied) == 1
    again, second = rewrite(after, UnflattenMatmul())
    assert not second.applied
    assert operators(again) == operators(after)


def test_two_products_of_one_flattened_tensor_lose_it_both() -> None:
    body = """f = Reshape (x, rows) p = Gemm (f, w, b) y = Reshape (p, back)
        q = Gemm (f, w) z = Reshape (q, back)"""
    after, _ = rewrite(_model(body, outputs="float[N,3,6] y, float[N,3,6] z"), UnflattenMatmul())
    assert _ops(after) == ["MatMul", "Add", "MatMul"]


def test_a_scalar_bias_of_the_gemm_is_added_to_all() -> None:
    after, _ = rewrite(
        _model("f = Reshape (x, rows) p = Gemm (f, w, b) y = Reshape (p, back)", bias=()), UnflattenMatmul()
    )
    assert _ops(after) == ["MatMul", "Add"]


REFUSED = {
    "the Gemm transposes 'v', which is not constant": (
        "v = Neg (w) f = Reshape (x, rows) p = Gemm <transB = 1> (f, v, b) y = Reshape (p, back)",
        {"weight": (6, 4)},
    ),
    "the Gemm scales, so its weight or bias would have to change": (
        "f = Reshape (x, rows) p = Gemm <alpha = 0.5> (f, w, b) y = Reshape (p, back)",
        {},
    ),
    "the bias 'b' is not provably the same for all rows": (
        "f = Reshape (x, rows) p = Gemm (f, w, b) y = Reshape (p, back)",
        {"bias": (1, 6)},
    ),
    "output 'p' also feeds z": (
        "f = Reshape (x, rows) p = Gemm (f, w, b) y = Reshape (p, back) z = Neg (p)",
        {"outputs": "float[N,3,6] y, float[R,6] z"},
    ),
    "output 'p' also feeds z ": (
        "f = Reshape (x, rows) p = MatMul (f, w) a = Add (p, b) y = Reshape (a, back) z = Neg (p)",
        {"outputs": "float[N,3,6] y, float[R,6] z"},
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_each_refusal_says_why(reason: str) -> None:
    body, options = REFUSED[reason]
    after, result = rewrite(_model(body, **options), UnflattenMatmul())
    assert "Reshape" in operators(after)
    assert reasons(result) == [reason.strip()]


def test_a_result_whose_axes_are_cut_otherwise_is_refused() -> None:
    text = f"""g (float[2,3,4] x, float[4,6] w) => (float[3,2,6] y) {{ {SHAPES}
        other = Constant <value = int64[3] {{3, 2, 6}}> ()
        f = Reshape (x, rows) p = Gemm (f, w) y = Reshape (p, other) }}"""
    after, result = rewrite(add_weights(graph_from(text), w=random_array(4, 6)), UnflattenMatmul())
    assert "Gemm" in operators(after)
    assert reasons(result) == ["the shape of 'y' is not provably that of 'x' up to the last axis"]


def test_a_reshape_that_splits_the_last_axis_is_another_thing() -> None:
    text = """g (float[N,3,8] x, float[4,6] w) => (float[M,3,6] y) {
        rows = Constant <value = int64[2] {-1, 4}> () back = Constant <value = int64[3] {-1, 3, 6}> ()
        f = Reshape (x, rows) p = Gemm (f, w) y = Reshape (p, back) }"""
    after, result = rewrite(add_weights(graph_from(text), w=random_array(4, 6)), UnflattenMatmul())
    assert "Gemm" in operators(after)
    assert not result.applied


def test_a_weight_that_the_gemm_transposes_is_stored_transposed() -> None:
    body = "f = Reshape (x, rows) p = Gemm <transB = 1> (f, w, b) y = Reshape (p, back)"
    model = _model(body, weight=(6, 4))
    after, result = rewrite(model, UnflattenMatmul())
    assert [op for op in operators(after) if op != "Constant"] == ["MatMul", "Add"]
    assert len(result.applied) == 1
    stored = after.graph.initializers["w_transposed"].const_value
    assert stored is not None
    np.testing.assert_array_equal(stored.numpy(), random_array(6, 4).T)
    _, result = rewrite(model, UnflattenMatmul(max_bytes=95))
    assert reasons(result) == ["the Gemm transposes its weight, whose copy would have 96 bytes"]
