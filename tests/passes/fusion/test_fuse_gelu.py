from __future__ import annotations

import pytest

from passes.fusion.fuse_gelu import FuseGelu
from tests.support.rewriting import graph_from, operators, reasons, rewrite

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
