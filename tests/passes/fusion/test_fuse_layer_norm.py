from __future__ import annotations

import numpy as np
import pytest

from passes.execution import run_model
from passes.fusion.fuse_layer_norm import FuseLayerNorm
from passes.pipeline import Pipeline
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

CONSTANTS = """
    last = Constant <value = int64[1] {-1}> ()
    first = Constant <value = int64[1] {1}> ()
    two = Constant <value = float {2.0}> ()
    one = Constant <value = float {1.0}> ()
    eps = Constant <value = float {0.00001}> ()
"""
CORE = (
    "m = ReduceMean (x, last) d = Sub (x, m) q = Pow (d, two) v = ReduceMean (q, last) e = Add (v, eps) r = Sqrt (e) "
)
NORM = CORE + "n = Div (d, r) "


def _model(body: str, *, scale: int = 4, outputs: str = "float[N,S,4] y", opset: int = 23):  # type: ignore[no-untyped-def]
    text = f"g (float[N,S,4] x, float[{scale}] w, float[4] b) => ({outputs}) {{ {CONSTANTS} {body} }}"
    return add_weights(graph_from(text, opset=opset), w=random_array(scale), b=random_array(4, seed=1))


def _ops(model) -> list[str]:  # type: ignore[no-untyped-def]
    return [op for op in operators(model) if op != "Constant"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (NORM + "s = Mul (n, w) y = Add (s, b)", ["LayerNormalization"]),
        (NORM + "s = Mul (w, n) y = Add (b, s)", ["LayerNormalization"]),
        (NORM + "y = Mul (n, w)", ["LayerNormalization"]),
        (NORM + "y = Neg (n)", ["LayerNormalization", "Neg"]),
        (NORM.replace("Pow (d, two)", "Mul (d, d)") + "s = Mul (n, w) y = Add (s, b)", ["LayerNormalization"]),
        (CORE + "i = Reciprocal (r) n = Mul (d, i) s = Mul (n, w) y = Add (s, b)", ["LayerNormalization"]),
        (CORE + "i = Div (one, r) n = Mul (i, d) s = Mul (n, w) y = Add (s, b)", ["LayerNormalization"]),
    ],
)
def test_each_form_becomes_layer_normalization(body: str, left: list[str]) -> None:
    after, result = rewrite(_model(body), FuseLayerNorm())
    assert _ops(after) == left
    assert len(result.applied) == 1


def test_a_scale_of_another_shape_stays_outside() -> None:
    after, _ = rewrite(_model(NORM + "s = Mul (n, w) y = Add (s, b)", scale=1), FuseLayerNorm())
    assert _ops(after) == ["LayerNormalization", "Mul", "Add"]


@pytest.mark.parametrize(
    "body",
    [
        NORM.replace("ReduceMean (q, last)", "ReduceMean (q, first)"),  # another axis for the variance
        NORM.replace("(x, last)", "(x, first)").replace("(q, last)", "(q, first)"),  # not the last axis
        NORM.replace("Sub (x, m)", "Sub (m, x)"),
        NORM.replace("Pow (d, two)", "Pow (d, one)"),
    ],
)
def test_another_computation_stays(body: str) -> None:
    after, result = rewrite(_model(body + "s = Mul (n, w) t = Abs (s) y = Add (t, b)"), FuseLayerNorm())
    assert "LayerNormalization" not in operators(after)
    assert not result.applied


def test_an_inner_value_with_another_reader_is_refused() -> None:
    body, outputs = NORM + "s = Mul (n, w) y = Add (s, b) z = Neg (d)", "float[N,S,4] y, float[N,S,4] z"
    after, result = rewrite(_model(body, outputs=outputs), FuseLayerNorm())
    assert "LayerNormalization" not in operators(after)
    assert reasons(result) == ["output 'd' also feeds z"]


def test_an_axis_of_symbolic_length_is_refused() -> None:
    text = f"g (float[N,S] x) => (float[N,S] y) {{ {CONSTANTS} {NORM} y = Neg (n) }}"
    _, result = rewrite(graph_from(text), FuseLayerNorm())
    assert reasons(result) == ["the normalized axes are not of fixed length"]


def test_an_older_opset_is_refused() -> None:
    text = f"""g (float[N,S,4] x) => (float[N,S,4] y) {{ {CONSTANTS}
        {NORM.replace("(x, last)", "<axes = [-1]> (x)").replace("(q, last)", "<axes = [-1]> (q)")} y = Neg (n) }}"""
    _, result = rewrite(graph_from(text, opset=16), FuseLayerNorm())
    assert reasons(result) == ["LayerNormalization needs opset 17, the model has 16"]


def test_an_epsilon_that_adds_an_axis_is_refused() -> None:
    constants = CONSTANTS.replace("eps = Constant <value = float {", "eps = Constant <value = float[1,1,1] {")
    text = f"g (float[N,4] x) => (float[1,N,4] y) {{ {constants} {NORM} y = Neg (n) }}"
    after, result = rewrite(graph_from(text), FuseLayerNorm())
    assert "LayerNormalization" not in operators(after)
    assert reasons(result) == ["the constant 'eps' has rank 3, 'x' 2"]


@pytest.mark.parametrize("power", ["Pow (e, h)", "Pow (e, g)"])
def test_a_power_is_a_root_too(power: str) -> None:
    constants = "h = Constant <value = float {0.5}> () g = Constant <value = float {-0.5}> () "
    operator = "Div (d, r)" if "h)" in power else "Mul (r, d)"
    body = constants + CORE.replace("Sqrt (e)", power) + f"n = {operator} y = Mul (n, w)"
    after, _ = rewrite(_model(body), FuseLayerNorm())
    assert _ops(after) == ["LayerNormalization"]


@pytest.mark.parametrize(
    "body",
    [
        CORE.replace("e = Add (v, eps) r = Sqrt (e)", "s = Sqrt (v) r = Add (s, eps)"),  # epsilon outside of the root
        CORE.replace("e = Add (v, eps)", "u = Mul (v, two) e = Add (u, eps)"),  # as a variance of N - 1 is written
    ],
)
def test_another_variance_stays(body: str) -> None:
    after, result = rewrite(_model(body + "n = Div (d, r) y = Mul (n, w)"), FuseLayerNorm())
    assert "LayerNormalization" not in operators(after)
    assert not result.applied


def test_constants_with_axes_of_one_are_reshaped() -> None:
    text = f"""g (float[N,S,4] x, float[1,1,4] w, float[1,4] b) => (float[N,S,4] y) {{ {CONSTANTS} {NORM}
        s = Mul (n, w) y = Add (s, b) }}"""
    model = add_weights(graph_from(text), w=random_array(1, 1, 4), b=random_array(1, 4, seed=1))
    after, _ = rewrite(model, FuseLayerNorm())
    assert _ops(after) == ["LayerNormalization"]


def test_half_precision_normalized_in_float32_is_one_node() -> None:
    text = f"""g (float16[N,S,4] h, float16[4] w, float16[4] b) => (float16[N,S,4] y) {{ {CONSTANTS}
        x = Cast <to = 1> (h) {NORM} c = Cast <to = 10> (n) s = Mul (c, w) y = Add (s, b) }}"""
    weights = {"w": random_array(4).astype(np.float16), "b": random_array(4, seed=1).astype(np.float16)}
    model = add_weights(graph_from(text), **weights)
    after, _ = Pipeline((FuseLayerNorm(),)).run(model)
    assert _ops(after) == ["LayerNormalization"]
    feeds = ({"h": random_array(2, 3, 4).astype(np.float16)},)
    (old,), (new,) = run_model(model, feeds), run_model(after, feeds)
    np.testing.assert_allclose(new["y"].astype(np.float32), old["y"].astype(np.float32), rtol=2e-3, atol=2e-3)


FIRST = NORM.replace("(x, last)", "(x, first)").replace("(q, last)", "(q, first)")


def _picture(body: str, *, scale: tuple[int, ...] = (4, 1, 1)):  # type: ignore[no-untyped-def]
    shape = ",".join(map(str, scale))
    text = f"""g (float[N,4,H,W] x, float[{shape}] w, float[{shape}] b) => (float[N,4,H,W] y)
        {{ {CONSTANTS} {body} }}"""
    return add_weights(graph_from(text), w=random_array(*scale), b=random_array(*scale, seed=1))


@pytest.mark.parametrize("scale", [(4, 1, 1), (1, 4, 1, 1)])
@pytest.mark.parametrize(
    ("rest", "left"),
    [
        ("s = Mul (w, n) y = Add (s, b)", []),
        ("y = Mul (n, w)", []),
        ("y = Neg (n)", ["Neg"]),
        ("s = Add (w, n) y = Mul (s, b)", ["Add", "Mul"]),
    ],
)
def test_channels_first_becomes_the_last_axis_between_transposes(
    rest: str, left: list[str], scale: tuple[int, ...]
) -> None:
    after, result = rewrite(_picture(FIRST + rest, scale=scale), FuseLayerNorm())
    assert _ops(after) == ["Transpose", "LayerNormalization", "Transpose", *left]
    assert [event.rule for event in result.applied] == ["channels first"]


def test_a_scale_of_places_stays_outside_of_a_norm_of_channels() -> None:
    text = f"""g (float[N,4,4,4] x, float[4] w) => (float[N,4,4,4] y) {{ {CONSTANTS} {FIRST} y = Mul (n, w) }}"""
    after, _ = rewrite(add_weights(graph_from(text), w=random_array(4)), FuseLayerNorm())
    assert _ops(after) == ["Transpose", "LayerNormalization", "Transpose", "Mul"]


def test_a_norm_of_all_places_of_a_channel_stays() -> None:
    body = NORM.replace("last", "places")
    text = f"""g (float[N,4,5,6] x) => (float[N,4,5,6] y) {{ {CONSTANTS}
        places = Constant <value = int64[2] {{1, 2}}> () {body} y = Neg (n) }}"""
    after, _ = rewrite(graph_from(text), FuseLayerNorm())
    assert "LayerNormalization" not in operators(after)
