from __future__ import annotations

import numpy as np
import pytest

from passes.execution import run_model
from passes.fusion.fuse_gelu import FuseGelu
from passes.pipeline import Pipeline
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

CONSTANTS = """
    half = Constant <value = float {0.5}> ()
    one = Constant <value = float {1.0}> ()
    two = Constant <value = float {2.0}> ()
    three = Constant <value = float {3.0}> ()
    root2 = Constant <value = float {1.4142135}> ()
    inverse = Constant <value = float {0.70710677}> ()
    k = Constant <value = float {0.044715}> ()
    c = Constant <value = float {0.7978845608}> ()
"""

FORMS = {
    "erf, halved last": "a = Div (x, root2) e = Erf (a) s = Add (e, one) m = Mul (x, s) g = Mul (m, half)",
    "erf, halved first": "h = Mul (half, x) a = Mul (x, inverse) e = Erf (a) s = Add (one, e) g = Mul (h, s)",
    "erf, halved gate": "a = Mul (inverse, x) e = Erf (a) s = Add (e, one) m = Mul (s, half) g = Mul (m, x)",
    "erf, divided by two": "a = Div (x, root2) e = Erf (a) s = Add (e, one) m = Mul (x, s) g = Div (m, two)",
    "erf, gate of halves": "a = Div (x, root2) e = Erf (a) f = Mul (e, half) s = Add (half, f) g = Mul (x, s)",
    "tanh, gate of halves": "p = Pow (x, three) q = Mul (k, p) r = Add (x, q) t = Mul (r, c) e = Tanh (t) "
    "f = Div (e, two) s = Add (f, half) g = Mul (x, s)",
    "tanh as sigmoid": "p = Pow (x, three) q = Mul (k, p) r = Add (x, q) t = Mul (r, c) u = Mul (t, two) "
    "s = Sigmoid (u) g = Mul (x, s)",
    "tanh with Pow": "p = Pow (x, three) q = Mul (k, p) r = Add (x, q) t = Mul (r, c) e = Tanh (t) s = Add (e, one) "
    "h = Mul (x, half) g = Mul (h, s)",
    "tanh with products": "p = Mul (x, x) p3 = Mul (p, x) q = Mul (p3, k) r = Add (q, x) t = Mul (c, r) e = Tanh (t) "
    "s = Add (one, e) h = Mul (x, half) g = Mul (s, h)",
    "tanh, factored": "p = Mul (x, x) q = Mul (p, k) r = Add (q, one) cx = Mul (x, c) t = Mul (cx, r) e = Tanh (t) "
    "s = Add (e, one) h = Mul (x, half) g = Mul (h, s)",
}


def _text(body: str) -> str:
    return f"g (float[N,4] x) => (float[N,4] y) {{ {CONSTANTS} {body} y = Neg (g) }}"


@pytest.mark.parametrize("form", FORMS)
def test_each_form_becomes_gelu(form: str) -> None:
    after, result = rewrite(graph_from(_text(FORMS[form])), FuseGelu())
    assert [op for op in operators(after) if op != "Constant"] == ["Gelu", "Neg"]
    assert [event.rule for event in result.applied] == ["none" if form.startswith("erf") else "tanh"]
    assert after.graph.node(-2).outputs[0].name == "g"


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ("erf, halved last", "Mul (m, half)", "Mul (m, two)"),
        ("erf, halved last", "Div (x, root2)", "Div (x, two)"),
        ("erf, halved last", "Add (e, one)", "Add (e, two)"),
        ("erf, gate of halves", "Mul (e, half)", "Mul (e, one)"),
        ("erf, gate of halves", "Add (half, f)", "Add (one, f)"),
        ("tanh as sigmoid", "Mul (t, two)", "Mul (t, one)"),
        ("tanh with Pow", "Pow (x, three)", "Pow (x, two)"),
        ("tanh with Pow", "Mul (k, p)", "Mul (c, p)"),
    ],
)
def test_another_constant_is_another_function(form: str, old: str, new: str) -> None:
    assert old in FORMS[form]
    after, result = rewrite(graph_from(_text(FORMS[form].replace(old, new))), FuseGelu())
    assert "Gelu" not in operators(after)
    assert not result.applied


def test_an_inner_value_with_another_reader_is_refused() -> None:
    text = _text(FORMS["erf, halved last"]).replace("(float[N,4] y)", "(float[N,4] y, float[N,4] z)")
    after, result = rewrite(graph_from(text.replace("y = Neg (g)", "y = Neg (g) z = Neg (e)")), FuseGelu())
    assert "Gelu" not in operators(after)
    assert reasons(result) == ["output 'e' also feeds z"]


def test_an_older_opset_is_refused() -> None:
    _, result = rewrite(graph_from(_text(FORMS["erf, halved last"]), opset=17), FuseGelu())
    assert reasons(result) == ["Gelu needs opset 20, the model has 17"]


@pytest.mark.parametrize("form", ["erf, halved last", "tanh with Pow"])
@pytest.mark.parametrize(("dims", "is_fused"), [("1", True), ("1,1", False)])
def test_a_constant_that_adds_an_axis_is_refused(form: str, dims: str, is_fused: bool) -> None:
    constants = CONSTANTS.replace("half = Constant <value = float {", f"half = Constant <value = float[{dims}] {{")
    text = f"g (float[4] x) => (float{'[4]' if is_fused else '[1,4]'} y) {{ {constants} {FORMS[form]} y = Neg (g) }}"
    after, result = rewrite(graph_from(text), FuseGelu())
    assert ("Gelu" in operators(after)) == is_fused
    assert reasons(result) == ([] if is_fused else ["the constant 'half' has rank 2, 'x' 1"])


@pytest.mark.parametrize("curve", ["a = Mul (x, i) b = Cast <to = 1> (a) e = Erf (b)"])
def test_an_erf_in_float32_between_casts_is_still_one(curve: str) -> None:
    numbers = {"i": 0.5**0.5, "one": 1.0, "half": 0.5}
    inputs = "".join(f", float16 {name}" for name in numbers)
    text = f"""g (float16[N,4] x{inputs}) => (float16[N,4] y) {{ {curve} f = Cast <to = 10> (e)
        s = Add (f, one) m = Mul (x, s) y = Mul (m, half) }}"""
    constants = {name: np.array(value, dtype=np.float16) for name, value in numbers.items()}
    model = add_weights(graph_from(text), **constants)
    after, _ = Pipeline((FuseGelu(),)).run(model)
    assert operators(after) == ["Gelu"]
    feeds = ({"x": random_array(3, 4).astype(np.float16)},)
    (old,), (new,) = run_model(model, feeds), run_model(after, feeds)
    np.testing.assert_allclose(new["y"].astype(np.float32), old["y"].astype(np.float32), rtol=4e-3, atol=4e-3)


def test_an_erf_in_float32_between_doubles_stays() -> None:
    """It runs, while runtimes without an Erf of doubles have no Gelu of them either."""
    numbers = {"i": 0.5**0.5, "one": 1.0, "half": 0.5}
    inputs = "".join(f", double {name}" for name in numbers)
    body = "a = Mul (x, i) b = Cast <to = 1> (a) e = Erf (b) f = Cast <to = 11> (e) s = Add (f, one) m = Mul (x, s)"
    text = f"g (double[N,4] x{inputs}) => (double[N,4] y) {{ {body} y = Mul (m, half) }}"
    model = add_weights(graph_from(text), **{name: np.array(value) for name, value in numbers.items()})
    after, result = rewrite(model, FuseGelu())
    assert operators(after) == operators(model)
    assert not result.applied


def test_the_quick_gelu_of_a_sigmoid_stays() -> None:
    body = "q = Constant <value = float {1.702}> () t = Mul (x, q) s = Sigmoid (t) g = Mul (x, s)"
    after, result = rewrite(graph_from(_text(body)), FuseGelu())
    assert "Gelu" not in operators(after)
    assert not result.applied
