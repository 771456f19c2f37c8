from __future__ import annotations

import numpy as np
import pytest

from passes.fusion.fuse_sum import FuseSum
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite


def _model(body: str, *, outputs: str = "float[N,S,3] y", residual: str = "N,S,3"):  # type: ignore[no-untyped-def]
    model = graph_from(f"g (float[N,S,4] x, float[{residual}] r, float[4,3] w, float[3] b) => ({outputs}) {{ {body} }}")
    return add_weights(model, w=random_array(4, 3), b=random_array(3, seed=1))


@pytest.mark.parametrize("inner", ["p, b", "b, p"])
@pytest.mark.parametrize("outer", ["q, r", "r, q"])
def test_bias_and_residual_are_added_at_once_bit_for_bit(inner: str, outer: str) -> None:
    after, _ = rewrite(_model(f"p = MatMul (x, w) q = Add ({inner}) y = Add ({outer})"), FuseSum(), is_exact=True)
    assert operators(after) == ["MatMul", "Sum"]
    assert [value.name for value in after.graph.node(-1).inputs] == ["p", "b", "r"]


def test_a_second_reader_is_refused() -> None:
    model = _model(
        "p = MatMul (x, w) q = Add (p, b) y = Add (q, r) z = Neg (q)", outputs="float[N,S,3] y, float[N,S,3] z"
    )
    _, result = rewrite(model, FuseSum(), is_exact=True)
    assert reasons(result) == ["output 'q' also feeds z"]


def test_a_residual_that_grows_the_product_is_refused() -> None:
    model = _model("p = MatMul (x, w) q = Add (p, b) y = Add (q, r)", outputs="float[2,N,S,3] y", residual="2,N,S,3")
    _, result = rewrite(model, FuseSum(), is_exact=True)
    assert reasons(result) == ["bias and residual do not provably broadcast to the product"]


def test_whole_numbers_are_refused_since_sum_does_not_take_them() -> None:
    text = """g (int32[N,4] x, int32[3] r, int32[4,3] w, int32[3] b) => (int32[N,3] y) {
        p = MatMul (x, w) q = Add (p, b) y = Add (q, r) }"""
    weights = {"w": np.arange(12, dtype=np.int32).reshape(4, 3), "b": np.arange(3, dtype=np.int32)}
    after, result = rewrite(add_weights(graph_from(text), **weights), FuseSum(), is_exact=True)
    assert operators(after) == ["MatMul", "Add", "Add"]
    assert reasons(result) == ["Sum does not take INT32"]
