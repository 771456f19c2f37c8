"""What is raised and then written out again for ONNX Runtime, which lacks it, is no longer than it was before."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.base import Context
from passes.catalogue import default_pipeline
from passes.fusion.activation_forms import ACTIVATIONS, Activation
from passes.fusion.forms import Any, Form, Number
from passes.pipeline import Pipeline
from targets.base import BuildOptions
from targets.registry import get_target
from tests.support.rewriting import graph_from, operators, rewrite

NUMBERS = {"slope": 0.25, "shift": 1.5, "top": 6.0, "alpha": 0.3, "times": 1 / 0.3}
OPSETS = (23, 24)
GELUS = {
    "gelu": "h = Mul (x, half) d = Div (x, root) e = Erf (d) p = Add (e, one) y = Mul (h, p)",
    "gelu_tanh": """t = Mul (x, x) c = Mul (t, x) k = Mul (c, small) a = Add (x, k) s = Mul (a, slope)
        e = Tanh (s) p = Add (e, one) h = Mul (x, half) y = Mul (h, p)""",
    "swish": "s = Sigmoid (x) y = Mul (x, s)",
    "swish_alpha": "a = Mul (x, half) s = Sigmoid (a) y = Mul (x, s)",
}
CONSTANTS = """half = Constant <value = float {0.5}> () one = Constant <value = float {1.0}> ()
    root = Constant <value = float {1.4142135}> () small = Constant <value = float {0.044715}> ()
    slope = Constant <value = float {0.7978845}> ()"""


def _written(activation: Activation) -> str:
    """Return the body of a graph that computes the form."""
    lines: list[str] = []
    by = next(n for n in (6.0, 1 / 6, 0.3) if activation.attributes({**NUMBERS, "by": n}) is not None)
    numbers = {**NUMBERS, "by": by}

    def write(form: Form, name: str) -> str:
        if isinstance(form, Any):
            return "x"
        if isinstance(form, Number):
            number = numbers[form.name] if form.value is None else form.value
            lines.append(f"{name} = Constant <value = float {{{number}}}> ()")
            return name
        operands = [write(operand, f"{name}_{index}") for index, operand in enumerate(form.operands)]
        wanted = [f"{key} = {value}" for key, (_, value) in form.attributes.items() if value is not None]
        attributes = f"<{', '.join(wanted)}>" if wanted else ""
        lines.append(f"{name} = {form.op_type} {attributes} ({', '.join(operands)})")
        return name

    write(activation.form, "y")
    return "\n".join(lines)


FORMS = {f"{index}-{one.op_type}": (one.opset, _written(one)) for index, one in enumerate(ACTIVATIONS)}
FORMS.update({name: (20, CONSTANTS + body) for name, body in GELUS.items()})


def _own() -> tuple[Pipeline, Context]:
    target, options = get_target("onnxruntime"), BuildOptions()
    return target.pipeline(options), Context(target.capabilities(options))


def _count(model: ir.Model) -> int:
    return sum(op != "Constant" for op in operators(model))


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("form", FORMS)
def test_no_activation_is_longer_than_before(form: str, opset: int) -> None:
    since, body = FORMS[form]
    if opset < since:
        opset = since
    model = graph_from(f"g (float[N,3,8] x) => (float[N,3,8] y) {{ {body} }}", opset=opset)
    own, context = _own()
    after, _ = rewrite(model, *default_pipeline().steps, *own.steps, capabilities=context.capabilities)
    assert _count(after) <= _count(model), operators(after)


GROUP = """groups = Constant <value = int64[3] {0, 2, -1}> () back = Constant <value = int64[4] {0, 4, 5, 6}> ()
    ones = Constant <value = float[2] {1.0, 1.0}> () zeros = Constant <value = float[2] {0.0, 0.0}> ()
    w = Constant <value = float[4,1,1] {0.5, 1.0, 2.0, 3.0}> ()
    b = Constant <value = float[4,1,1] {0.5, 1.0, 2.0, 3.0}> ()
    r = Reshape (x, groups) i = InstanceNormalization (r, ones, zeros) n = Reshape (i, back)
    s = Mul (n, w) y = Add (s, b)"""


def test_a_group_norm_is_what_it_was() -> None:
    model = graph_from(f"g (float[N,4,5,6] x) => (float[N,4,5,6] y) {{ {GROUP} }}")
    own, context = _own()
    after, _ = rewrite(model, *default_pipeline().steps, *own.steps, capabilities=context.capabilities)
    assert operators(after) == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
