from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.execution import run_model
from passes.fusion.activation_forms import ACTIVATIONS
from passes.fusion.fuse_activation import FuseActivation
from passes.pipeline import Pipeline
from tests.support.rewriting import add_weights, graph_from, operators, reasons, rewrite

NUMBERS = {
    "zero": 0.0,
    "one": 1.0,
    "three": 3.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "half": 0.5,
    "tenth": 0.1,
    "two": 2.0,
    "minus": -1.0,
}
CONSTANTS = " ".join(f"{name} = Constant <value = float {{{value}}}> ()" for name, value in NUMBERS.items())
FEEDS = ({"x": np.linspace(-9, 9, 35, dtype=np.float32).reshape(5, 7)},)


def _model(body: str, *, opset: int = 23, outputs: str = "float[N,7] y", kind: str = "float") -> ir.Model:
    constants = CONSTANTS.replace("= float {", f"= {kind} {{")
    outputs = outputs.replace("float[", f"{kind}[")
    return graph_from(f"g ({kind}[N,7] x) => ({outputs}) {{ {constants} {body} }}", opset=opset)


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


CLIPS = (
    "c = Clip (a, zero, {0})",
    "l = Max (a, zero) c = Min (l, {0})",
    "l = Min ({0}, a) c = Max (zero, l)",
    "l = Relu (a) c = Min (l, {0})",
)
SHIFT, LINE = "a = Add (x, three) ", "s = Mul (x, sixth) a = Add (half, s) "
FORMS: list[tuple[str, str]] = [
    ("HardSwish", "h = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x) y = Mul (h, x)"),
    ("HardSwish", LINE + "c = Clip (a, zero, one) y = Mul (x, c)"),
    *(("HardSwish", SHIFT + clip.format("six") + " p = Mul (x, c) y = Div (p, six)") for clip in CLIPS),
    *(("HardSwish", SHIFT + clip.format("six") + " p = Mul (c, x) y = Mul (sixth, p)") for clip in CLIPS),
    *(("HardSwish", SHIFT + clip.format("six") + " p = Div (x, six) y = Mul (p, c)") for clip in CLIPS),
    *(("HardSwish", SHIFT + clip.format("six") + " p = Mul (x, sixth) y = Mul (p, c)") for clip in CLIPS),
    *(("HardSwish", SHIFT + clip.format("six") + " p = Div (c, six) y = Mul (x, p)") for clip in CLIPS),
    *(("HardSigmoid", LINE + clip.format("one") + " y = Identity (c)") for clip in CLIPS),
    *(("HardSigmoid", "s = Div (x, six) a = Add (s, half) " + c.format("one") + " y = Identity (c)") for c in CLIPS),
    *(("HardSigmoid", SHIFT + clip.format("six") + " y = Div (c, six)") for clip in CLIPS),
    *(("HardSigmoid", SHIFT + clip.format("six") + " y = Mul (c, sixth)") for clip in CLIPS),
    ("HardSigmoid", "a = Add (x, one) c = Clip (a, zero, two) y = Mul (c, half)"),
    ("Mish", "p = Softplus (x) t = Tanh (p) y = Mul (t, x)"),
    ("Sigmoid", "n = Neg (x) e = Exp (n) d = Add (e, one) y = Div (one, d)"),
    ("Sigmoid", "n = Neg (x) e = Exp (n) d = Add (one, e) y = Reciprocal (d)"),
    ("Swish", "n = Neg (x) e = Exp (n) d = Add (one, e) y = Div (x, d)"),
    ("Swish", "s = Sigmoid (x) y = Mul (x, s)"),
    ("Swish", "a = Mul (tenth, x) s = Sigmoid (a) y = Mul (s, x)"),
    ("Softsign", "a = Abs (x) d = Add (a, one) y = Div (x, d)"),
    ("LeakyRelu", "a = Mul (x, tenth) y = Max (a, x)"),
    ("LeakyRelu", "g = Greater (x, zero) a = Mul (x, tenth) y = Where (g, x, a)"),
    ("LeakyRelu", "g = GreaterOrEqual (x, zero) a = Mul (x, tenth) y = Where (g, x, a)"),
    ("LeakyRelu", "g = Less (x, zero) a = Mul (x, six) y = Where (g, a, x)"),
    ("LeakyRelu", "g = LessOrEqual (x, zero) a = Mul (x, tenth) y = Where (g, a, x)"),
    ("Elu", "r = Relu (x) e = Exp (x) m = Sub (e, one) a = Mul (half, m) n = Min (zero, a) y = Add (n, r)"),
    ("Elu", "r = Relu (x) e = Exp (x) m = Sub (e, one) n = Min (m, zero) y = Add (r, n)"),
    (
        "Celu",
        "r = Relu (x) d = Div (x, two) e = Exp (d) m = Sub (e, one) a = Mul (m, two) n = Min (a, zero) y = Add (r, n)",
    ),
    (
        "Celu",
        "r = Relu (x) d = Mul (half, x) e = Exp (d) m = Sub (e, one) a = Mul (two, m) n = Min (a, zero) y = Add (r, n)",
    ),
    ("Elu", "g = Greater (x, zero) e = Exp (x) m = Sub (e, one) a = Mul (m, half) y = Where (g, x, a)"),
    ("Elu", "g = GreaterOrEqual (x, zero) e = Exp (x) m = Sub (e, one) a = Mul (m, half) y = Where (g, x, a)"),
    ("Elu", "g = Greater (x, zero) e = Exp (x) m = Sub (e, one) y = Where (g, x, m)"),
    ("Elu", "g = GreaterOrEqual (x, zero) e = Exp (x) m = Sub (e, one) y = Where (g, x, m)"),
    ("Relu", "y = Max (zero, x)"),
    ("Relu", "y = Clip (x, zero)"),
]


@pytest.mark.parametrize(("op_type", "body"), FORMS)
def test_each_form_becomes_its_operator(op_type: str, body: str) -> None:
    opset = 24 if op_type == "Swish" else 23
    after, result = rewrite(_model(body, opset=opset), FuseActivation(), feeds=FEEDS)
    assert [op for op in _ops(after) if op != "Identity"] == [op_type]
    assert {event.rule for event in result.applied} <= {op_type, "HardSigmoid", "Relu"}
    _, second = rewrite(after, FuseActivation(), feeds=FEEDS)
    assert not second.applied


def test_each_operator_of_the_table_has_a_case() -> None:
    assert {activation.op_type for activation in ACTIVATIONS} == {op_type for op_type, _ in FORMS}


@pytest.mark.parametrize(
    "body",
    [
        "h = HardSigmoid (x) y = Mul (h, x)",  # the default slope is 0.2
        "a = Add (x, three) c = Clip (a, zero, six) p = Mul (x, c) y = Div (p, three)",
        "a = Add (x, three) c = Clip (a, zero, three) p = Mul (x, c) y = Div (p, six)",
        "a = Add (x, three) c = Clip (a, one, six) y = Div (c, six)",
        "a = Add (x, three) c = Clip (a, zero, six) y = Div (six, c)",
        "a = Mul (x, sixth) c = Clip (a, zero, two) y = Add (c, half)",
        "a = Mul (x, two) y = Max (a, x)",  # the larger slope wins on the other side
        "a = Mul (x, zero) y = Max (a, x)",
        "g = Greater (x, one) a = Mul (x, tenth) y = Where (g, x, a)",
        "g = Greater (x, zero) a = Mul (x, tenth) y = Where (g, a, x)",
        "g = Greater (x, zero) e = Exp (x) m = Sub (one, e) y = Where (g, x, m)",
        "e = Exp (x) d = Add (e, one) y = Div (one, d)",
        "p = Softplus (x) t = Tanh (x) y = Mul (t, p)",
        "r = Relu (x) d = Div (x, half) e = Exp (d) m = Sub (e, one) a = Mul (m, two) n = Min (a, zero) y = Add (r, n)",
        "r = Relu (x) d = Mul (x, two) e = Exp (d) m = Sub (e, one) a = Mul (m, two) n = Min (a, zero) y = Add (r, n)",
        "r = Relu (x) e = Exp (x) m = Sub (e, one) a = Mul (m, minus) n = Min (a, zero) y = Add (r, n)",
        "y = Max (one, x)",
        "y = Clip (x, zero, six)",
        "y = Clip (x, , zero)",
        "s = Sigmoid (x) n = Neg (x) y = Mul (n, s)",
    ],
)
def test_another_computation_stays(body: str) -> None:
    model = _model(body, opset=24)
    after, result = rewrite(model, FuseActivation(), feeds=FEEDS)
    assert _ops(after) == _ops(model)
    assert not result.applied


@pytest.mark.parametrize("body", ["e = Exp (x) d = Add (e, one) y = Log (d)", "s = Softmax (x) y = Log (s)"])
def test_what_overflows_where_the_operator_does_not_stays(body: str) -> None:
    after, _ = rewrite(_model(body), FuseActivation())
    assert len(_ops(after)) == body.count("=")


def test_swish_stays_in_two_nodes_before_opset_24() -> None:
    after, result = rewrite(_model("s = Sigmoid (x) y = Mul (x, s)"), FuseActivation())
    assert _ops(after) == ["Sigmoid", "Mul"]
    assert not result.refused


def test_an_older_opset_is_refused() -> None:
    _, result = rewrite(_model("p = Softplus (x) t = Tanh (p) y = Mul (t, x)", opset=17), FuseActivation())
    assert reasons(result) == ["Mish needs opset 18, the model has 17"]


def test_an_inner_value_with_another_reader_is_refused() -> None:
    body, outputs = "p = Softplus (x) t = Tanh (p) y = Mul (t, x) z = Neg (p)", "float[N,7] y, float[N,7] z"
    after, result = rewrite(_model(body, outputs=outputs), FuseActivation())
    assert "Mish" not in operators(after)
    assert reasons(result) == ["output 'p' also feeds z"]


def test_a_constant_that_adds_an_axis_is_refused() -> None:
    body = "k = Constant <value = float[1,1,1] {0.0}> () y = Max (x, k)"
    after, result = rewrite(_model(body, outputs="float[1,N,7] y"), FuseActivation())
    assert "Relu" not in operators(after)
    assert reasons(result) == ["the constant 'k' has rank 3, 'x' 2"]


def test_integers_stay() -> None:
    text = "g (int32[N,7] x) => (int32[N,7] y) { zero = Constant <value = int32 {0}> () y = Max (x, zero) }"
    after, _ = rewrite(graph_from(text), FuseActivation())
    assert _ops(after) == ["Max"]


def test_half_precision_constants_are_taken_as_meant() -> None:
    constants = {name: np.array(NUMBERS[name], dtype=np.float16) for name in ("zero", "three", "six", "sixth")}
    inputs = "".join(f", float16 {name}" for name in constants)
    body = "a = Add (x, three) c = Clip (a, zero, six) p = Mul (x, c) y = Mul (p, sixth)"
    before = add_weights(graph_from(f"g (float16[N,7] x{inputs}) => (float16[N,7] y) {{ {body} }}"), **constants)
    after, _ = Pipeline((FuseActivation(),)).run(before)
    assert operators(after) == ["HardSwish"]
    feeds = ({"x": FEEDS[0]["x"].astype(np.float16)},)
    (old,), (new,) = run_model(before, feeds), run_model(after, feeds)
    np.testing.assert_allclose(new["y"].astype(np.float32), old["y"].astype(np.float32), rtol=4e-3, atol=4e-3)


def _of_type(body: str, kind: str, *, opset: int) -> ir.Model:
    array = np.float64 if kind == "double" else np.float16
    used = [name for name in NUMBERS if name in body]
    inputs = "".join(f", {kind} {name}" for name in used)
    model = graph_from(f"g ({kind}[N,7] x{inputs}) => ({kind}[N,7] y) {{ {body} }}", opset=opset)
    return add_weights(model, **{name: np.array(NUMBERS[name], dtype=array) for name in used})


IN_DOUBLE = {
    "HardSigmoid": SHIFT + "c = Clip (a, zero, six) y = Div (c, six)",
    "LeakyRelu": "a = Mul (x, tenth) y = Max (a, x)",
    "Softsign": "a = Abs (x) d = Add (a, one) y = Div (x, d)",
    "Elu": "g = Greater (x, zero) e = Exp (x) m = Sub (e, one) y = Where (g, x, m)",
    "Relu": "y = Max (zero, x)",
    "Sigmoid": "n = Neg (x) e = Exp (n) d = Add (one, e) y = Reciprocal (d)",
    "Swish": "s = Sigmoid (x) y = Mul (x, s)",
}


@pytest.mark.parametrize("op_type", IN_DOUBLE)
def test_doubles_become_only_operators_that_runtimes_have_for_them(op_type: str) -> None:
    feeds = ({"x": FEEDS[0]["x"].astype(np.float64)},)
    model = _of_type(IN_DOUBLE[op_type], "double", opset=24)
    after, result = rewrite(model, FuseActivation(), feeds=feeds)  # runs both
    is_raised = op_type in ("Relu", "Sigmoid", "Swish")
    assert (operators(after) == [op_type]) == is_raised
    assert reasons(result) == ([] if is_raised else [f"runtimes have no {op_type} of doubles"])


def test_a_type_that_the_operator_does_not_take_is_refused() -> None:
    body = (
        "r = Relu (x) d = Div (x, two) e = Exp (d) m = Sub (e, one) a = Mul (m, two) n = Min (a, zero) y = Add (r, n)"
    )
    model = _of_type(body, "float16", opset=23)
    _, result = rewrite(model, FuseActivation(), feeds=({"x": FEEDS[0]["x"].astype(np.float16)},))
    assert reasons(result) == ["Celu of opset 23 takes no FLOAT16"]
