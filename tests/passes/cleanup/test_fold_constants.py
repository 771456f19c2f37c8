from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup.fold_constants import FoldConstants
from passes.matching import constant_array
from passes.parse import pipeline_from_text
from tests.support.rewriting import add_weights, counts, graph_from, operators, random_array, reasons, rewrite


def test_a_chain_of_constants_becomes_one_initializer_under_its_own_name() -> None:
    model = graph_from(
        """g (float[N,3] x) => (float[N,3] y) {
            two = Constant <value = float[1] {2.0}> ()
            three = Constant <value = float[1] {3.0}> ()
            six = Mul (two, three)
            y = Add (x, six)
        }"""
    )
    after, result = rewrite(model, FoldConstants(), is_exact=True)
    assert operators(after) == ["Add"]
    assert constant_array(after.graph.initializers["six"]).tolist() == [6.0]
    assert [event.rule for event in result.applied] == ["Constant", "Constant", "Mul"]


def test_a_name_that_sibling_branches_share_stays_their_own() -> None:
    model = graph_from(
        """g (bool c, float[2] x) => (float[2] y) {
            two = Constant <value = float {2.0}> ()
            y = If (c) <
                then_branch = t () => (float[2] ty) { k = Mul (two, two) ty = Add (x, k) },
                else_branch = e () => (float[2] ey) { k = Neg (x) ey = Add (k, two) }>
        }"""
    )
    feeds = tuple({"c": np.array(flag), "x": random_array(2)} for flag in (True, False))
    after, result = rewrite(model, FoldConstants(), feeds=feeds, is_exact=True)
    assert [event.rule for event in result.applied] == ["Constant", "Mul"]
    assert "k" not in after.graph.initializers
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("Cast <to = 6> (a)", np.array([1, -2, 3], np.int32)),
        ("Concat <axis = 0> (a, a)", np.array([1.5, -2, 3, 1.5, -2, 3], np.float32)),
        ("Greater (a, b)", np.array([True, False, True])),
        ("Range (i, j, i1)", np.arange(0, 4, dtype=np.int64)),
        ("Sqrt (b)", np.ones(3, np.float32)),
        ("Shape (a)", np.array([3], np.int64)),
        ("Where (c, a, b)", np.array([1.5, 1, 3], np.float32)),
        ("ReduceMax <keepdims = 0> (a)", np.array(3, np.float32)),
    ],
)
def test_dtype_and_shape_of_the_result_are_exact(expression: str, expected: np.ndarray) -> None:
    kind = {"f": "float", "i": "int64", "b": "bool"}[expected.dtype.kind]
    if expected.dtype == np.int32:
        kind = "int32"
    dims = ",".join(map(str, expected.shape))
    model = graph_from(
        f"""g () => ({kind}{f"[{dims}]" if dims else ""} y) {{
            a = Constant <value = float[3] {{1.5, -2.0, 3.0}}> ()
            b = Constant <value = float[3] {{1.0, 1.0, 1.0}}> ()
            c = Constant <value = bool[3] {{1, 0, 1}}> ()
            i = Constant <value = int64 {{0}}> ()
            j = Constant <value = int64 {{4}}> ()
            i1 = Constant <value = int64 {{1}}> ()
            r = {expression}
            y = Identity (r)
        }}"""
    )
    after, _ = rewrite(model, FoldConstants(), is_exact=True)
    array = constant_array(after.graph.initializers["r"])
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_a_result_over_the_bound_is_refused_before_it_is_made() -> None:
    text = """g () => (float[1000,1000] y) {
        n = Constant <value = int64[2] {1000, 1000}> ()
        big = ConstantOfShape <value = float[1] {1.0}> (n)
        y = Neg (big)
    }"""
    after, result = rewrite(graph_from(text), FoldConstants(max_bytes=1000))
    assert operators(after) == ["ConstantOfShape", "Neg"]
    assert reasons(result) == ["the result has 4000000 bytes, over max_bytes=1000"]
    after, _ = rewrite(graph_from(text), FoldConstants())
    assert operators(after) == ["Neg"]


def test_a_weight_over_the_bound_is_not_read() -> None:
    model = graph_from(
        """g (float[8,8] w, float[N,8] x) => (float[N,8] y) {
            t = Transpose <perm = [1, 0]> (w)
            y = MatMul (x, t)
        }"""
    )
    add_weights(model, w=random_array(8, 8))
    after, result = rewrite(model, FoldConstants(max_bytes=100))
    assert operators(after) == ["Transpose", "MatMul"]
    assert reasons(result) == ["an input has 256 bytes, over max_bytes=100"]


@pytest.mark.parametrize(
    "expression",
    [
        "RandomNormalLike <seed = 1.0> (a)",
        "Bernoulli <seed = 1.0> (p)",
    ],
)
def test_random_operators_stay(expression: str) -> None:
    model = graph_from(
        f"""g () => (float[2] y) {{
            a = Constant <value = float[2] {{1.0, 2.0}}> ()
            p = Constant <value = float[2] {{0.5, 0.5}}> ()
            r = {expression}
            z = Mul (r, a)
            y = Sub (z, z)
        }}""",
        opset=21,
    )
    after, _ = rewrite(model, FoldConstants())
    assert "RandomNormalLike" in operators(after) or "Bernoulli" in operators(after)


def test_a_dequantized_weight_stays_quantized() -> None:
    model = graph_from(
        """g (float[N,2] x) => (float[N,2] y) {
            q = Constant <value = int8[2,2] {1, 2, 3, 4}> ()
            s = Constant <value = float {0.5}> ()
            z = Constant <value = int8 {0}> ()
            w = DequantizeLinear (q, s, z)
            y = MatMul (x, w)
        }"""
    )
    after, _ = rewrite(model, FoldConstants(), is_exact=True)
    assert operators(after) == ["DequantizeLinear", "MatMul"]


def test_an_initializer_that_a_caller_may_override_is_no_constant() -> None:
    model = graph_from(
        """g (float[2] x, float[2] w = {1.0, 2.0}) => (float[2] y) {
            v = Add (w, w)
            y = Mul (x, v)
        }"""
    )
    after, result = rewrite(model, FoldConstants(), is_exact=True)
    assert operators(after) == ["Add", "Mul"]
    assert not result.applied


def test_a_constant_output_of_the_graph_keeps_its_node() -> None:
    model = graph_from("g () => (float[1] y) { y = Constant <value = float[1] {2.0}> () }")
    after, result = rewrite(model, FoldConstants(), is_exact=True)
    assert operators(after) == ["Constant"]
    assert not result.applied


def test_branches_of_an_if_are_folded_inside_and_kept() -> None:
    model = graph_from(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = t () => (float[2] a) {
                    one = Constant <value = float[1] {1.0}> ()
                    two = Add (one, one)
                    a = Add (x, two)
                },
                else_branch = e () => (float[2] b) { b = Neg (x) }
            >
        }"""
    )
    after, _ = rewrite(model, FoldConstants(), is_exact=True)
    assert counts(after) == {"If": 1, "Constant": 1, "Add": 1, "Neg": 1} or counts(after) == {
        "If": 1,
        "Add": 1,
        "Neg": 1,
    }


def test_the_bound_is_checked_once_and_spelled_in_the_text() -> None:
    assert str(pipeline_from_text("fold-constants{max_bytes=64}")) == "fold-constants{max_bytes=64}"
    with pytest.raises(ValueError, match="max_bytes is a size"):
        FoldConstants(max_bytes=-1)
