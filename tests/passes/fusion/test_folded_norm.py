from __future__ import annotations

import numpy as np
import pytest

from tests.support.golden import assert_refused, assert_rewritten, transformed
from tests.support.rewriting import operators

PASS = "fuse-layer-norm"
CONSTANTS = """last = Constant <value = int64[1] {-1}> () one = Constant <value = float {1.0}> ()
    zero = Constant <value = float {0.0}> () eps = Constant <value = float {0.001}> () """
TWO_PASS = "m = ReduceMean (x, last) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, last) "
FAST = "m = ReduceMean (x, last) q = Mul (x, x) a = ReduceMean (q, last) mm = Mul (m, m) v = Sub (a, mm) "
CLIPPED = FAST.replace("v = ", "u = ") + "v = Max (zero, u) "
RELU = FAST.replace("v = ", "u = ") + "v = Relu (u) "
ROOT = "e = Add (v, eps) r = Sqrt (e) i = Reciprocal (r) "
DIVIDED = ROOT.replace("Reciprocal (r)", "Div (one, r)")
FLAX = "c = Sub (x, m) f = Mul (i, w) n = Mul (c, f) y = Add (n, b)"
TENSORFLOW = "f = Mul (w, i) n = Mul (x, f) k = Mul (m, f) s = Sub (b, k) y = Add (n, s)"
NORM = "y = LayerNormalization <axis: int = -1, epsilon: float = 0.001>"
WEIGHTS = {"w": np.array([0.5, 1, 2, 3], np.float32), "b": np.array([1, 2, 3, 4], np.float32)}
SHOWN = "w = float[4] {0.5, 1.0, 2.0, 3.0}", "b = float[4] {1.0, 2.0, 3.0, 4.0}"


def _text(body: str, *, shape: str = "N,3,4", outputs: str = "") -> str:
    return f"g (float[{shape}] x, float[4] w, float[4] b) => (float[{shape}] y{outputs}) {{ {CONSTANTS} {body} }}"


@pytest.mark.parametrize("variance", [TWO_PASS, FAST, CLIPPED, RELU])
@pytest.mark.parametrize("root", [ROOT, DIVIDED])
@pytest.mark.parametrize("rest", [FLAX, TENSORFLOW])
def test_a_folded_scale_is_a_layer_norm(variance: str, root: str, rest: str) -> None:
    after, _ = transformed(_text(variance + root + rest), PASS, weights=WEIGHTS)
    assert [op for op in operators(after) if op != "Constant"] == ["LayerNormalization"]


def test_the_golden_text() -> None:
    expected = f"{SHOWN[0]}\n{SHOWN[1]}\n{NORM} (x, w, b)"
    assert_rewritten(_text(CLIPPED + ROOT + FLAX), f"{PASS},eliminate-dead-code", expected, weights=WEIGHTS)


def test_without_a_scale_it_has_ones() -> None:
    body = FAST + ROOT + "c = Sub (x, m) y = Mul (c, i)"
    text = _text(body).replace(", float[4] w, float[4] b", "")
    ones = "y_scale = float[4] {1.0, 1.0, 1.0, 1.0}"
    assert_rewritten(text, f"{PASS},eliminate-dead-code", f"{ones}\n{NORM} (x, y_scale)")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (FAST + ROOT + FLAX + " z = Neg (f)", "output 'f' also feeds z"),
        (FAST + ROOT + TENSORFLOW + " z = Neg (k)", "output 'k' also feeds z"),
    ],
)
def test_an_inner_value_with_another_reader_is_refused(body: str, reason: str) -> None:
    assert_refused(_text(body, outputs=", float[N,3,4] z"), PASS, reason)


def test_a_scale_of_another_shape_is_refused() -> None:
    text = _text(TWO_PASS + ROOT + FLAX, shape="N,4,4").replace("float[4] w", "float[4,1] w")
    assert_refused(text, PASS, "'w' does not have the shape of the normalized axes")


def test_an_axis_of_symbolic_length_is_refused() -> None:
    text = _text(TWO_PASS + ROOT + FLAX, shape="N,3,D").replace("float[4]", "float[D]")
    assert_refused(text, PASS, "the normalized axes are not of fixed length")


def test_an_epsilon_that_adds_an_axis_is_refused() -> None:
    text = _text(TWO_PASS + ROOT + FLAX).replace("float {0.001}", "float[1,1,1,1] {0.001}")
    assert_refused(text.replace("(float[N,3,4] y)", "(float[1,N,3,4] y)"), PASS, "has rank 4, 'x' 3")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Sub (a, mm)", "Sub (mm, a)"),
        ("c = Sub (x, m)", "c = Sub (m, x)"),
        ("mm = Mul (m, m)", "mm = Mul (m, a)"),
        ("k = Mul (m, f)", "k = Mul (m, w)"),
        ("s = Sub (b, k)", "s = Sub (k, b)"),
        ("Max (zero, u)", "Max (one, u)"),
        ("a = ReduceMean (q, last)", "a = ReduceMean (q, first)"),
    ],
)
def test_another_computation_stays(old: str, new: str) -> None:
    rest = TENSORFLOW if old in TENSORFLOW else FLAX
    body = "first = Constant <value = int64[1] {1}> () " + CLIPPED + ROOT + rest
    assert old in body
    after, _ = transformed(_text(body.replace(old, new), shape="2,4,4"), PASS, weights=WEIGHTS, is_run=False)
    assert "LayerNormalization" not in operators(after)
