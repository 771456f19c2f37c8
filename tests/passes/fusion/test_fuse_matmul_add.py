from __future__ import annotations

import pytest

from passes.fusion.fuse_matmul_add import FuseMatmulAdd
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite


def _model(body: str, *, x: str = "N,4", y: str = "float[N,3] y", bias: str = "3"):  # type: ignore[no-untyped-def]
    model = graph_from(f"g (float[{x}] x, float[4,3] w, float[{bias}] b) => ({y}) {{ {body} }}")
    return add_weights(model, w=random_array(4, 3), b=random_array(*map(int, bias.split(",")), seed=1))


@pytest.mark.parametrize("bias", ["3", "1,3", "1"])
@pytest.mark.parametrize("order", ["p, b", "b, p"])
def test_matrices_become_gemm(order: str, bias: str) -> None:
    after, _ = rewrite(_model(f"p = MatMul (x, w) y = Add ({order})", bias=bias), FuseMatmulAdd())
    assert operators(after) == ["Gemm"]


def test_three_dimensions_stay() -> None:
    after, result = rewrite(_model("p = MatMul (x, w) y = Add (p, b)", x="N,S,4", y="float[N,S,3] y"), FuseMatmulAdd())
    assert operators(after) == ["MatMul", "Add"]
    assert not result.refused


def test_a_second_reader_is_refused() -> None:
    model = _model("p = MatMul (x, w) y = Add (p, b) z = Neg (p)", y="float[N,3] y, float[N,3] z")
    after, result = rewrite(model, FuseMatmulAdd())
    assert operators(after) == ["MatMul", "Add", "Neg"]
    assert reasons(result) == ["output 'p' also feeds z"]


def test_a_bias_that_grows_the_product_is_refused() -> None:
    model = _model("p = MatMul (x, w) y = Add (p, b)", x="1,4", bias="5,3", y="float[5,3] y")
    _, result = rewrite(model, FuseMatmulAdd())
    assert reasons(result) == ["the bias 'b' does not provably broadcast to the product"]
