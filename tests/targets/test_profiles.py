"""Where an artifact's time goes, as the runtimes count it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from targets.base import BuildOptions, Profile, ProfilingTarget, shares_of_time
from targets.registry import get_target
from tests.support.quantized_chains import fast_products, recurrence, slow_convolutions

SHAPES = {fast_products: (64, 1024), recurrence: (20, 1, 64), slow_convolutions: (1, 16, 32, 32)}


def profile(target: str, graph, out: Path, *, quantized: bool = True) -> Profile:
    found = get_target(target)
    assert isinstance(found, ProfilingTarget)
    options = BuildOptions(precision="int8" if quantized else "fp32")
    artifact = found.build(graph(quantized=quantized), out, options)
    feeds = {"x": np.zeros(SHAPES[graph], np.float32)}
    return found.profile(artifact, feeds, threads=1)


def greatest(profile: Profile) -> tuple[str, str]:
    return profile.operators[0].operator, profile.operators[0].arithmetic


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_shares_sum_to_one_and_name_the_processor(target: str, tmp_path: Path):
    found = profile(target, fast_products, tmp_path)
    assert sum(each.share for each in found.operators) == pytest.approx(1.0)
    assert "int8" in found.arithmetic or not found.arithmetic


@pytest.mark.parametrize(("target", "operator"), [("onnxruntime", "QLinearMatMul"), ("openvino", "FullyConnected")])
def test_integer_products_are_int8(target: str, operator: str, tmp_path: Path):
    assert greatest(profile(target, fast_products, tmp_path)) == (operator, "int8")


@pytest.mark.parametrize(("target", "operator"), [("onnxruntime", "MatMul"), ("openvino", "FullyConnected")])
def test_float_products_are_float(target: str, operator: str, tmp_path: Path):
    assert greatest(profile(target, fast_products, tmp_path, quantized=False)) == (operator, "float")


def test_what_has_no_int8_kernel_is_float(tmp_path: Path):
    assert greatest(profile("onnxruntime", recurrence, tmp_path)) == ("LSTM", "float")


def test_conversions_inside_compiled_subgraphs_are_told_apart(tmp_path: Path):
    operators = profile("openvino", fast_products, tmp_path).operators
    assert {("Subgraph", "conversion"), ("FullyConnected", "int8")} <= {
        (each.operator, each.arithmetic) for each in operators
    }


def test_conversions_are_told_apart(tmp_path: Path):
    operators = profile("onnxruntime", slow_convolutions, tmp_path).operators
    converting = {each.operator for each in operators if each.arithmetic == "conversion"}
    assert {"QuantizeLinear", "DequantizeLinear"} <= converting
    assert ("Abs", "float") in {(each.operator, each.arithmetic) for each in operators}


def test_shares_are_summed_by_operator_and_arithmetic():
    times = [("Conv", "int8", 30.0), ("Conv", "float", 10.0), ("Conv", "int8", 60.0), ("Relu", "float", 0.0)]
    assert [(each.operator, each.arithmetic, each.share) for each in shares_of_time(times)] == [
        ("Conv", "int8", 0.9),
        ("Conv", "float", 0.1),
    ]
    assert shares_of_time([]) == ()
