from __future__ import annotations

import numpy as np
import pytest

from passes.execution import run_model
from passes.fusion.fuse_rms_norm import FuseRmsNorm
from passes.pipeline import Pipeline
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


VARIANCE = "q = Mul (x, x) v = ReduceMean (q, last) e = Add (eps, v) "
INVERSES = {
    "Pow by 0.5": "h = Constant <value = float {0.5}> () r = Pow (e, h) n = Div (x, r)",
    "Pow by -0.5": "h = Constant <value = float {-0.5}> () r = Pow (e, h) n = Mul (r, x)",
    "1 / root": "one = Constant <value = float {1.0}> () r = Sqrt (e) i = Div (one, r) n = Mul (x, i)",
    "root of 1 / v": "one = Constant <value = float {1.0}> () i = Div (one, e) r = Sqrt (i) n = Mul (x, r)",
    "root of Reciprocal": "i = Reciprocal (e) r = Sqrt (i) n = Mul (x, r)",
}


@pytest.mark.parametrize("inverse", INVERSES)
def test_each_inverse_root_is_one(inverse: str) -> None:
    after, _ = rewrite(_model(VARIANCE + INVERSES[inverse] + " y = Mul (n, w)"), FuseRmsNorm())
    assert [op for op in operators(after) if op != "Constant"] == ["RMSNormalization"]


@pytest.mark.parametrize(("rest", "left"), [("y = Identity (n)", "Identity"), ("y = Mul (n, w)", "Mul")])
def test_without_a_scale_of_that_shape_it_is_ones(rest: str, left: str) -> None:
    after, _ = rewrite(_model(ROOT + "n = Div (x, r) " + rest, scale=1), FuseRmsNorm())
    assert [op for op in operators(after) if op != "Constant"] == ["RMSNormalization", left]


def test_a_constant_scale_with_axes_of_one_is_reshaped() -> None:
    text = f"""g (float[N,S,4] x, float[1,1,4] w) => (float[N,S,4] y) {{ {CONSTANTS} {ROOT}
        n = Div (x, r) y = Mul (n, w) }}"""
    after, _ = rewrite(add_weights(graph_from(text), w=random_array(1, 1, 4)), FuseRmsNorm())
    assert [op for op in operators(after) if op != "Constant"] == ["RMSNormalization"]


@pytest.mark.parametrize("scale", ["y = Mul (c, w)", "y = Identity (c)"])
def test_half_precision_normalized_in_float32_is_one_node(scale: str) -> None:
    text = f"""g (float16[N,S,4] h, float16[4] w) => (float16[N,S,4] y) {{ {CONSTANTS}
        x = Cast <to = 1> (h) {ROOT} n = Div (x, r) c = Cast <to = 10> (n) {scale} }}"""
    model = add_weights(graph_from(text), w=random_array(4).astype(np.float16))
    after, _ = Pipeline((FuseRmsNorm(),)).run(model)
    assert [op for op in operators(after) if op not in ("Constant", "Identity")] == ["RMSNormalization"]
    feeds = ({"h": random_array(2, 3, 4).astype(np.float16)},)
    (old,), (new,) = run_model(model, feeds), run_model(after, feeds)
    np.testing.assert_allclose(new["y"].astype(np.float32), old["y"].astype(np.float32), rtol=2e-3, atol=2e-3)


def test_a_cast_to_another_type_stays_outside() -> None:
    text = f"""g (float16[N,S,4] h) => (float[N,S,4] y, double[N,S,4] z) {{ {CONSTANTS}
        x = Cast <to = 1> (h) {ROOT} n = Div (x, r) z = Cast <to = 11> (n) y = Neg (h2) h2 = Cast <to = 1> (h) }}"""
    text = text.replace("y = Neg (h2) h2 = Cast <to = 1> (h)", "h2 = Cast <to = 1> (h) y = Neg (h2)")
    after, _ = rewrite(graph_from(text), FuseRmsNorm())
    assert operators(after)[-4:] == ["RMSNormalization", "Cast", "Cast", "Neg"]


@pytest.mark.parametrize(
    "body",
    [
        "q = Mul (x, x) v = ReduceMean (q, last) s = Sqrt (v) r = Add (s, eps) n = Div (x, r) y = Mul (n, w)",
        "q = Mul (x, x) v = ReduceSum (q, last) e = Add (v, eps) r = Sqrt (e) n = Div (x, r) y = Mul (n, w)",
        "q = Mul (x, x) v = ReduceMean (q, last) e = Add (v, eps) n = Div (x, e) y = Mul (n, w)",
        "q = Mul (x, x) v = ReduceMean (q, last) e = Add (v, eps) r = Pow (e, two) n = Div (x, r) y = Mul (n, w)",
        "a = Abs (x) " + VARIANCE.replace("(x, x)", "(a, a)") + "r = Sqrt (e) n = Div (x, r) y = Mul (n, w)",
    ],
)
def test_another_computation_stays(body: str) -> None:
    after, result = rewrite(_model(body), FuseRmsNorm())
    assert "RMSNormalization" not in operators(after)
    assert not result.applied


def test_an_axis_of_symbolic_length_is_refused() -> None:
    text = f"g (float[N,S] x) => (float[N,S] y) {{ {CONSTANTS} {ROOT} y = Div (x, r) }}"
    _, result = rewrite(graph_from(text), FuseRmsNorm())
    assert reasons(result) == ["the normalized axes are not of fixed length"]


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
