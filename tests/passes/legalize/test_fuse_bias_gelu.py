"""FuseBiasGelu: biases and sigmoids that it joins, and what it refuses."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.legalize.fuse_bias_gelu import FuseBiasGelu
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import graph_from, reasons

GELU = "y = Gelu (s)"
TANH = 'y = Gelu <approximate = "tanh"> (s)'


def model(body: str, *, x: str = "B,S,8", b: str = "8", y: str = "float[B,S,8] y", dtype: str = "float") -> ir.Model:
    header = f"g ({dtype}[{x}] x, {dtype}[{b}] b, {dtype}[B,S,8] o, {dtype} a) => ({y})"
    return graph_from(f"{header} {{ {body} }}".replace("ALPHA", "k = Constant <value_float = 1.702> ()"))


@pytest.mark.parametrize(
    ("body", "form"),
    [
        (f"s = Add (x, b) {GELU}", "BiasGelu(x, b)"),
        (f"s = Add (b, x) {GELU}", "BiasGelu(x, b)"),
        (f"s = Add (b, x) {TANH}", "FastGelu(x, b)"),
        ("s = Sigmoid (x) y = Mul (x, s)", "QuickGelu(x)"),
        ("s = Sigmoid (x) y = Mul (s, x)", "QuickGelu(x)"),
        ("ALPHA m = Mul (x, k) s = Sigmoid (m) y = Mul (x, s)", "QuickGelu(x)"),
        ("ALPHA m = Mul (k, x) s = Sigmoid (m) y = Mul (s, x)", "QuickGelu(x)"),
    ],
)
def test_the_forms(body: str, form: str) -> None:
    after, result = legalise(model(body), FuseBiasGelu())
    assert [text for text in forms(after) if not text.startswith("Constant")] == [form]
    assert len(result.applied) == 1


def test_alpha_is_kept() -> None:
    after, _ = legalise(model("ALPHA m = Mul (k, x) s = Sigmoid (m) y = Mul (s, x)"), FuseBiasGelu())
    assert attributes(after, "QuickGelu") == {"alpha": pytest.approx(1.702)}
    after, _ = legalise(model("s = Sigmoid (x) y = Mul (s, x)"), FuseBiasGelu())
    assert attributes(after, "QuickGelu") == {"alpha": 1.0}


@pytest.mark.parametrize(("x", "y"), [("8", "float[8] y"), ("B,8", "float[B,8] y"), ("B,2,S,8", "float[B,2,S,8] y")])
def test_any_rank_is_taken(x: str, y: str) -> None:
    after, _ = legalise(model(f"s = Add (x, b) {GELU}", x=x, y=y), FuseBiasGelu())
    assert forms(after) == ["BiasGelu(x, b)"]


UNBIASED = "no operand of the Add is provably a bias of the last axis"


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (model(f"s = Add (x, b) {GELU}", b="1"), UNBIASED),
        (model(f"s = Add (x, b) {GELU}", b="1,8"), UNBIASED),
        (model(f"s = Add (x, o) {GELU}"), UNBIASED),
        (model(f"s = Add (x, b) {GELU}", x="B,S,1"), UNBIASED),
        (model(f"s = Add (x, b) {GELU} n = Neg (s)", y="float[B,S,8] y, float[B,S,8] n"), "output 's' also feeds n"),
        (model(f"s = Add (x, b) {GELU}", y="float[B,S,8] y, float[B,S,8] s"), "'s' is an output of the graph"),
        (
            model("s = Sigmoid (x) y = Mul (x, s) n = Neg (s)", y="float[B,S,8] y, float[B,S,8] n"),
            "output 's' also feeds n",
        ),
    ],
)
def test_what_is_refused(built: ir.Model, reason: str) -> None:
    _, result = legalise(built, FuseBiasGelu())
    assert reasons(result) == [reason]
    assert not result.applied


def test_a_type_without_kernel_is_refused() -> None:
    result = refused(model(f"s = Add (x, b) {GELU}", y="double[B,S,8] y", dtype="double"), FuseBiasGelu())
    assert reasons(result) == ["the target has no com.microsoft BiasGelu for DOUBLE"]


def test_a_factor_that_raises_the_rank_is_refused() -> None:
    body = "k = Constant <value = float[1,1,1] {2.0}> () m = Mul (x, k) s = Sigmoid (m) y = Mul (x, s)"
    _, result = legalise(model(body, x="8", y="float[1,1,8] y"), FuseBiasGelu())
    assert len(result.refused) == 1
    assert "rank" in reasons(result)[0]


def test_a_sigmoid_of_another_tensor_is_no_match() -> None:
    _, result = legalise(model("s = Sigmoid (o) y = Mul (x, s)"), FuseBiasGelu())
    assert not result.applied


def test_int8_neighbours_are_left_to_the_runtime() -> None:
    built = graph_from(
        """g (float[B,S,8] x, uint8[B,S,8] q, float f, uint8 z, float[8] b) => (uint8[B,S,8] y) {
        r = DequantizeLinear (q, f, z) s = Sigmoid (r) p = Mul (r, s) y = QuantizeLinear (p, f, z) }"""
    )
    _, result = legalise(built, FuseBiasGelu())
    assert reasons(result) == ["'r' comes from int8"]
