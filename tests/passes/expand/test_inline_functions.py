from __future__ import annotations

import onnx_ir as ir

from passes.expand.inline_functions import InlineFunctions
from tests.support.rewriting import graph_from, operators, reasons, rewrite


def _model(*, opset: int = 23) -> ir.Model:
    return graph_from(
        f"""g (float[N] x) => (float[N] y) {{ a = my.outer <slope = 0.5> (x) y = my.inner (a) }}
        <domain: "my", opset_import: ["" : {opset}, "my" : 1]> outer <slope> (p) => (q) {{
            r = my.inner (p)
            q = LeakyRelu <alpha: float = @slope> (r)
        }}
        <domain: "my", opset_import: ["" : {opset}]> inner (p) => (q) {{ q = Neg (p) }}""",
        domains=', "my" : 1',
    )


def test_calls_become_bodies_with_their_attributes() -> None:
    after, result = rewrite(_model(), InlineFunctions(), is_exact=True)
    assert operators(after) == ["Neg", "LeakyRelu", "Neg"]
    assert after.graph.node(1).attributes["alpha"].as_float() == 0.5
    assert not after.functions
    assert sorted(event.node for event in result.applied) == ["my::inner", "my::outer"]


def test_another_opset_is_refused() -> None:
    after, result = rewrite(_model(opset=20), InlineFunctions())
    assert "outer" in operators(after)
    assert reasons(result) == ["it uses opset 20 of 'ai.onnx', the model 23"] * 2


def test_a_function_that_calls_itself_is_refused() -> None:
    model = graph_from(
        """g (float[N] x) => (float[N] y) { y = Neg (x) }
        <domain: "my", opset_import: ["" : 23, "my" : 1]> f (p) => (q) { q = my.f (p) }""",
        domains=', "my" : 1',
    )
    from passes.base import Context

    result = InlineFunctions().run(model, Context())
    assert reasons(result) == ["it calls itself"]


def test_a_limit_inlines_that_many_functions() -> None:
    after, result = rewrite(_model(), InlineFunctions(), limit=1, is_exact=True)
    assert len(result.applied) == 1
    assert len(after.functions) == 1
