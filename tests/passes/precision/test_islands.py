"""Casts are not put around a cheap operator between float32 neighbours, and a product is worth them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.pipeline import Pipeline
from passes.precision import convert_float
from passes.precision.convert_float import ConvertFp16
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

BETWEEN = "g (float[N,8] x) => (float[N,8] y) { a = Exp (x) b = Neg (a) y = Log (b) }"
LONG = """g (float[N,8] x) => (float[N,8] y) {
    a = Exp (x) b = Neg (a) c = Relu (b) d = Tanh (c) e = Neg (d) f = Abs (e) y = Log (f)
}"""
PRODUCT = "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { a = Exp (x) b = MatMul (a, w) y = Log (b) }"
TAIL = "g (float[N,8] x, float[8,8] w) => (float[N,8] y) { b = MatMul (x, w) c = Relu (b) y = Softmax (c) }"


def converted(text: str) -> tuple[ir.Model, list[str]]:
    source = graph_from(text)
    if "w)" in text.split("=>")[0]:
        add_weights(source, w=random_array(8, 8))
    after, results = Pipeline((ConvertFp16(),)).run(source)
    return after, reasons(results[0])


def test_a_cheap_operator_between_float32_neighbours_stays_float32() -> None:
    after, why = converted(BETWEEN)
    assert "Cast" not in counts(after)
    assert any("neighbours are float32" in reason for reason in why)


def test_without_the_choice_it_would_be_an_island(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_float, "worthwhile", lambda candidates, kept, **_: frozenset(candidates))
    after, _ = converted(BETWEEN)
    assert counts(after)["Cast"] == 2


@pytest.mark.parametrize("text", [LONG, PRODUCT])
def test_a_product_or_a_long_chain_is_worth_two_casts(text: str) -> None:
    after, _ = converted(text)
    assert counts(after)["Cast"] == 2


def test_an_operator_behind_a_product_stays_with_it() -> None:
    after, _ = converted(TAIL)
    relu = next(node for node in after.graph if node.op_type == "Relu")
    assert str(relu.outputs[0].dtype) == "FLOAT16"
    assert counts(after)["Cast"] == 2


def test_the_bytes_of_an_image_are_cast_once() -> None:
    text = """g (uint8[N,8] x, float[8,8] w) => (float[N,8] y) { f = Cast <to = 1> (x) y = MatMul (f, w) }"""
    after, _ = converted(text)
    casts = [node.attributes["to"].as_int() for node in after.graph if node.op_type == "Cast"]
    assert casts == [ir.DataType.FLOAT16.value, ir.DataType.FLOAT.value]
    assert np.dtype(np.float16) == next(iter(after.graph.initializers.values())).const_value.numpy().dtype
