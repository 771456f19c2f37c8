from __future__ import annotations

import pytest

from passes.fusion.fuse_rms_norm import FuseRmsNorm
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

CONSTANTS = """
    last = Constant <value = int64[1] {-1}> ()
    two = Constant <value = float {2.0}> ()
    eps = Constant <value = float {0.00001}> ()
"""
ROOT = "q = Pow (x, two) v = ReduceMean (q, last) e = Add (v, eps) r = Sqrt (e) "


def _model(body: str, *, scale: int = 4, outputs: str = "float[N,S,4] y", opset: int = 23):  # type: ignore[no-untyped-def]
    text = f"g (float[N,S,4] x, float[{scale}] w) => ({outputs}) {{ {CONSTANTS} {body} }}"
    return add_weights(graph_from(text, opset=opset), w=random_array(scale))


@pytest.mark.parametrize(
    "body",
    [
        ROOT + "n = Div (x, r) y = Mul (n, w)",
        ROOT + "i = Reciprocal (r) n = Mul (x, i) y = Mul (w, n)",
        ROOT.replace("Pow (x, two)", "Mul (x, x)") + "i = Reciprocal (r) n = Mul (i, x) y = Mul (w, n)",
    ],
)
def test_each_form_becomes_rms_normalization(body: str) -> None:
    after, _ = rewrite(_model(body), FuseRmsNorm())
    assert [op for op in operators(after) if op != "Constant"] == ["RMSNormalization"]


def test_without_a_scale_of_that_shape_it_is_refused() -> None:
    after, result = rewrite(_model(ROOT + "n = Div (x, r) y = Mul (n, w)", scale=1), FuseRmsNorm())
    assert "RMSNormalization" not in operators(after)
    assert reasons(result) == ["no scale of the normalized shape follows"]


def test_an_inner_value_with_another_reader_is_refused() -> None:
    body = ROOT + "n = Div (x, r) y = Mul (n, w) z = Neg (q)"
    _, result = rewrite(_model(body, outputs="float[N,S,4] y, float[N,S,4] z"), FuseRmsNorm())
    assert reasons(result) == ["output 'q' also feeds z"]


def test_an_older_opset_is_refused() -> None:
    _, result = rewrite(_model(ROOT + "n = Div (x, r) y = Mul (n, w)", opset=20), FuseRmsNorm())
    assert reasons(result) == ["RMSNormalization needs opset 23, the model has 20"]


def test_an_epsilon_that_adds_an_axis_is_refused() -> None:
    constants = CONSTANTS.replace("eps = Constant <value = float {", "eps = Constant <value = float[1,1,1] {")
    text = f"g (float[N,4] x, float[4] w) => (float[1,N,4] y) {{ {constants} {ROOT} n = Div (x, r) y = Mul (n, w) }}"
    after, result = rewrite(add_weights(graph_from(text), w=random_array(4)), FuseRmsNorm())
    assert "RMSNormalization" not in operators(after)
    assert reasons(result) == ["the constant 'eps' has rank 3, 'x' 2"]
