"""Why ONNX Runtime ran planned int8 products in float: each reason on a graph where the runtime does fall back."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from targets.base import BuildOptions
from targets.onnxruntime.fallbacks import UNKNOWN
from targets.onnxruntime.target import OnnxRuntimeTarget
from tests.support.quantized_chains import Chain, fast_products, recurrence, slow_convolutions


def executed(model: ir.Model, out: Path, **settings: str) -> dict:
    options = BuildOptions(precision="int8", settings=settings)
    return OnnxRuntimeTarget().build(model, out, options).manifest.details["executed"]


def reasons(found: dict) -> dict[str, str]:
    return {each["node"]: each["reason"] for each in found["fallbacks"]}


def test_a_float_reader(tmp_path: Path):
    found = reasons(executed(slow_convolutions(quantized=True, count=1), tmp_path))
    assert found == {
        "conv_0": "its output is read by the float operator Abs, so the runtime keeps Q/DQ around a float Conv"
    }


def test_no_kernel(tmp_path: Path):
    assert reasons(executed(recurrence(quantized=True), tmp_path)) == {
        "lstm": "the runtime has no int8 kernel for LSTM between DequantizeLinear and QuantizeLinear"
    }


def test_no_optimization(tmp_path: Path):
    found = executed(fast_products(quantized=True, count=1), tmp_path, optimization="basic")
    assert "optimization=basic fuses no int8 operator" in reasons(found)["matmul_0"]


@pytest.mark.parametrize("op_type", ["Conv"])
def test_a_graph_output(op_type: str, tmp_path: Path):
    chain = Chain([1, 4, 8, 8], quantized=True)
    chain.product(op_type, "product", (4, 4, 1, 1), axis=0, closed=False)
    model = chain.model()
    assert "float operator Identity" in reasons(executed(model, tmp_path))["product"]


def test_nothing_falls_back_where_all_is_closed(tmp_path: Path):
    found = executed(fast_products(quantized=True), tmp_path)
    assert (found["fallbacks"], found["int8_planned"]) == ([], 4)


def test_every_reason_is_one_of_the_rules(tmp_path: Path):
    for index, model in enumerate((slow_convolutions(quantized=True), recurrence(quantized=True))):
        out = tmp_path / str(index)
        out.mkdir()
        assert UNKNOWN not in reasons(executed(model, out)).values()
