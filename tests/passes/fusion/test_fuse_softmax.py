from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.fusion.fuse_softmax import FuseSoftmax
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = "last = Constant <value = int64[1] {-1}> () first = Constant <value = int64[1] {1}> () "
SHIFT = "m = ReduceMax (x, last) d = Sub (x, m) e = Exp (d) s = ReduceSum (e, last) "


def _model(body: str, *, outputs: str = "float[N,S,4] y", opset: int = 23) -> ir.Model:
    return graph_from(f"g (float[N,S,4] x) => ({outputs}) {{ {CONSTANTS} {body} }}", opset=opset)


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


@pytest.mark.parametrize("axis", ["last", "first"])
@pytest.mark.parametrize(
    ("rest", "left"),
    [
        ("y = Div (e, s)", "Softmax"),
        ("r = Reciprocal (s) y = Mul (e, r)", "Softmax"),
        ("r = Reciprocal (s) y = Mul (r, e)", "Softmax"),
        ("l = Log (s) y = Sub (d, l)", "LogSoftmax"),
    ],
)
def test_each_form_becomes_its_operator(rest: str, left: str, axis: str) -> None:
    after, result = rewrite(_model(SHIFT.replace("last", axis) + rest), FuseSoftmax())
    assert _ops(after) == [left]
    assert len(result.applied) == 1


@pytest.mark.parametrize(
    "body",
    [
        "e = Exp (x) s = ReduceSum (e, last) y = Div (e, s)",  # overflows where Softmax does not
        SHIFT.replace("ReduceSum (e, last)", "ReduceSum (e, first)") + "y = Div (e, s)",
        SHIFT.replace("ReduceMax (x, last)", "ReduceMean (x, last)") + "y = Div (e, s)",
        SHIFT.replace("Sub (x, m)", "Sub (m, x)") + "y = Div (e, s)",
        SHIFT + "y = Div (s, e)",
        SHIFT + "y = Div (d, s)",
        SHIFT + "l = Log (s) y = Sub (x, l)",
        "a = Neg (x) " + SHIFT.replace("ReduceMax (x", "ReduceMax (a") + "y = Div (e, s)",
    ],
)
def test_another_computation_stays(body: str) -> None:
    model = _model(body)
    after, result = rewrite(model, FuseSoftmax())
    assert _ops(after) == _ops(model)
    assert not result.applied


def test_a_sum_that_drops_its_axis_stays() -> None:
    text = f"""g (float[4,4] x) => (float[4,4] y) {{ {CONSTANTS} m = ReduceMax (x, last) d = Sub (x, m) e = Exp (d)
        s = ReduceSum <keepdims = 0> (e, last) y = Div (e, s) }}"""
    after, _ = rewrite(graph_from(text), FuseSoftmax())
    assert "Softmax" not in operators(after)


def test_an_inner_value_with_another_reader_is_refused() -> None:
    model = _model(SHIFT + "y = Div (e, s) z = Neg (d)", outputs="float[N,S,4] y, float[N,S,4] z")
    after, result = rewrite(model, FuseSoftmax())
    assert "Softmax" not in operators(after)
    assert reasons(result) == ["output 'd' also feeds z"]


def test_an_older_opset_is_refused() -> None:
    body = """m = ReduceMax <axes = [-1]> (x) d = Sub (x, m) e = Exp (d) s = ReduceSum <axes = [-1]> (e)
        y = Div (e, s)"""
    _, result = rewrite(_model(body, opset=12), FuseSoftmax())
    assert reasons(result) == ["Softmax needs opset 13, the model has 12"]
