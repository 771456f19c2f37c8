from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.cleanup.simplify_algebra import SimplifyAlgebra
from tests.support.rewriting import add_weights, graph_from, operators, reasons, rewrite

CONSTANTS = """
    two = Constant <value = float {2.0}> () three = Constant <value = float[1] {3.0}> ()
    minus = Constant <value = float {-3.0}> () huge = Constant <value = float {1e30}> ()
    tiny = Constant <value = float {1e-30}> () table = Constant <value = float[1,1,1] {2.0}> ()
    itwo = Constant <value = int64 {2}> () ithree = Constant <value = int64 {-3}> ()
    yes = Constant <value = bool[3] {1, 1, 1}> () no = Constant <value = bool {0}> ()
    mixed = Constant <value = bool[3] {1, 0, 1}> () many = Constant <value = bool[4,1,1] {1, 1, 1, 1}> ()
"""


def _model(body: str) -> ir.Model:
    text = f"g (float[N,3] x, float[N,3] z, int64[N,3] i, bool[N,3] b) => (float y) {{ {CONSTANTS} {body} }}"
    model = graph_from(text)
    output = model.graph.outputs[0]
    output.shape = None
    if "(i, " in body:
        output.type = ir.TensorType(ir.DataType.INT64)
    if "Not" in body:
        output.type = ir.TensorType(ir.DataType.BOOL)
    return model


def _left(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


EXACT = {
    "neg neg": ("r = Relu (x) a = Neg (r) c = Neg (a) y = Exp (c)", ["Relu", "Exp"]),
    "not not": ("n = Not (b) m = Not (n) y = And (m, b)", ["And"]),
    "abs abs": ("a = Abs (x) c = Abs (a) y = Exp (c)", ["Abs", "Exp"]),
    "abs neg": ("a = Neg (x) y = Abs (a)", ["Abs"]),
    "add neg": ("a = Neg (x) y = Add (a, z)", ["Sub"]),
    "sub neg": ("a = Neg (x) y = Sub (z, a)", ["Add"]),
    "square": ("y = Pow (x, two)", ["Mul"]),
    "integers": ("a = Mul (i, itwo) y = Mul (ithree, a)", ["Mul"]),
    "integer sums": ("a = Add (i, itwo) y = Add (ithree, a)", ["Add"]),
    "where true": ("r = Exp (x) w = Where (yes, r, z) y = Abs (w)", ["Exp", "Abs"]),
    "where false": ("r = Exp (x) w = Where (no, z, r) y = Abs (w)", ["Exp", "Abs"]),
    "where equal": ("r = Exp (x) w = Where (b, r, r) y = Abs (w)", ["Exp", "Abs"]),
}


@pytest.mark.parametrize(("body", "left"), EXACT.values(), ids=EXACT)
def test_less_arithmetic_gives_the_same(body: str, left: list[str]) -> None:
    after, _ = rewrite(_model(body), SimplifyAlgebra(), is_exact="Pow" not in body)
    assert _left(after) == left
    assert rewrite(after, SimplifyAlgebra())[1].applied == ()


def test_a_chain_of_constants_is_one() -> None:
    after, result = rewrite(_model("a = Mul (x, two) y = Mul (three, a)"), SimplifyAlgebra())
    assert _left(after) == ["Mul"]
    assert [event.rule for event in result.applied] == ["mul-chain"]


def test_a_sum_of_floats_keeps_its_order() -> None:
    body = "big = Constant <value = float {16777216.0}> () one = Constant <value = float {1.0}> () a = Add (x, big)"
    text = f"g (float[N,3] x) => (float[N,3] y) {{ {body} y = Add (a, one) }}"
    feeds = ({"x": np.array([[-(2.0**24), 1, 2]], np.float32)},)  # 2 ** 24 + 1 is no float32
    _, result = rewrite(graph_from(text), SimplifyAlgebra(), feeds=feeds, is_exact=True)
    assert reasons(result) == ["sums of floats round at each step"]


REFUSED = {
    "floats": ("a = Add (x, two) y = Add (a, minus)", "sums of floats round"),
    "overflow": ("a = Mul (x, huge) y = Mul (a, huge)", "overflow"),
    "large": ("a = Mul (x, huge) y = Mul (a, tiny)", "very large"),
    "read twice": ("a = Mul (x, two) c = Mul (a, three) y = Add (a, c)", "also feeds"),
    "axes": ("a = Mul (x, table) y = Mul (a, three)", "adds axes"),
    "exponent": ("y = Pow (x, table)", "adds axes"),
    "where": ("w = Where (many, x, z) y = Abs (w)", "may give the result its shape"),
}


@pytest.mark.parametrize(("body", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(body: str, reason: str) -> None:
    _, result = rewrite(_model(body), SimplifyAlgebra())
    assert not result.applied
    assert any(reason in why for why in reasons(result)), reasons(result)


@pytest.mark.parametrize(
    "body", ["y = Where (mixed, x, z)", "y = Pow (x, three)", "a = Mul (x, two) y = Add (a, three)"]
)
def test_other_forms_stay(body: str) -> None:
    _, result = rewrite(_model(body), SimplifyAlgebra())
    assert not result.applied


def test_infinities_nan_and_signed_zeros_are_kept() -> None:
    special = np.array([[np.inf, -np.inf, np.nan], [0.0, -0.0, 1e-45]], np.float32)
    ones = np.ones((2, 3))
    feeds = ({"x": special, "z": special[::-1].copy(), "i": ones.astype(np.int64), "b": ones > 0},)
    body = "a = Neg (x) c = Add (a, z) d = Sub (c, a) e = Abs (d) f = Neg (e) y = Abs (f)"
    from passes.execution import run_model
    from passes.pipeline import Pipeline

    model = _model(body)
    after, _ = Pipeline((SimplifyAlgebra(),)).run(model)
    assert "Neg" not in _left(after)
    for old, new in zip(run_model(model, feeds), run_model(after, feeds), strict=True):
        np.testing.assert_array_equal(old["y"].view(np.int32) & 0x7FFFFFFF, new["y"].view(np.int32) & 0x7FFFFFFF)


def test_products_in_half_precision_are_left_alone() -> None:
    """x * 300 * (1 / 300) is infinite on the way for x = 300, and x is not."""
    model = graph_from("g (float16[3] x, float16 a, float16 b) => (float16[3] y) { t = Mul (x, a) y = Mul (t, b) }")
    add_weights(model, a=np.array(300, np.float16), b=np.array(1 / 300, np.float16))
    _, result = rewrite(model, SimplifyAlgebra(), is_exact=True)
    assert not result.applied
    assert reasons(result) == ["a float16 product in between may overflow"]
