from __future__ import annotations

import pytest

from passes.cleanup.eliminate_common_subexpressions import EliminateCommonSubexpressions
from tests.support.rewriting import counts, graph_from, operators, reasons, rewrite


def test_equal_nodes_are_computed_once() -> None:
    model = graph_from(
        """g (float[N,2] x) => (float[N,2] y) {
            a = Relu (x)
            b = Relu (x)
            c = Neg (a)
            d = Neg (b)
            y = Add (c, d)
        }"""
    )
    after, result = rewrite(model, EliminateCommonSubexpressions(), is_exact=True)
    assert operators(after) == ["Relu", "Neg", "Add"]
    assert len(result.applied) == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Softmax <axis = 0> (x)", "Softmax <axis = 1> (x)"),
        ("Sub (x, z)", "Sub (z, x)"),
        ("Cast <to = 1> (x)", "Cast <to = 11> (x)"),
        ("RandomNormalLike (x)", "RandomNormalLike (x)"),
        ("LeakyRelu <alpha = 0.0> (x)", "LeakyRelu <alpha = -0.0> (x)"),
    ],
)
def test_nodes_that_differ_stay(first: str, second: str) -> None:
    model = graph_from(
        f"""g (float[2,2] x, float[2,2] z) => (float[2,2] y) {{
            a = {first}
            b = {second}
            d = Cast <to = 1> (b)
            s = Add (a, d)
            t = Sub (s, s)
            y = Add (t, x)
        }}""",
        opset=21,  # ONNX Runtime has no kernel for the random operators of opset 22
    )
    _, result = rewrite(model, EliminateCommonSubexpressions())
    assert not result.applied


def test_two_outputs_of_the_graph_keep_their_names() -> None:
    model = graph_from("g (float[2] x) => (float[2] y, float[2] z) { y = Relu (x) z = Relu (x) }")
    after, result = rewrite(model, EliminateCommonSubexpressions(), is_exact=True)
    assert operators(after) == ["Relu", "Relu"]
    assert reasons(result) == ["'z' is an output of the graph"]


def test_branches_do_not_share_with_each_other() -> None:
    model = graph_from(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = t () => (float[2] p) { a = Neg (x) b = Neg (x) p = Add (a, b) },
                else_branch = e () => (float[2] q) { a2 = Neg (x) q = Abs (a2) }
            >
        }"""
    )
    after, _ = rewrite(model, EliminateCommonSubexpressions(), is_exact=True)
    assert counts(after) == {"If": 1, "Neg": 2, "Add": 1, "Abs": 1}


def test_the_order_of_the_operands_of_a_sum_does_not_matter() -> None:
    model = graph_from(
        "g (float[2] x, float[2] z) => (float[2] y) { a = Add (x, z) b = Add (z, x) y = Mul (a, b) }",
    )
    after, _ = rewrite(model, EliminateCommonSubexpressions(), is_exact=True)
    assert operators(after) == ["Add", "Mul"]


def test_a_branch_reads_what_was_computed_outside() -> None:
    model = graph_from(
        """g (bool c, float[2] x) => (float[2] y) {
            n = Neg (x)
            i = If (c) <
                then_branch = t () => (float[2] p) { a = Neg (x) p = Abs (a) },
                else_branch = e () => (float[2] q) { b = Neg (x) q = Neg (x) }
            >
            y = Add (i, n)
        }"""
    )
    after, result = rewrite(model, EliminateCommonSubexpressions(), is_exact=True)
    assert counts(after) == {"If": 1, "Neg": 2, "Abs": 1, "Add": 1}
    assert reasons(result) == ["'q' is an output of the graph"]
