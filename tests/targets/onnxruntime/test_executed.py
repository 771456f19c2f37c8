"""What ONNX Runtime ran, as the manifest tells it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from targets.base import BuildOptions
from targets.onnxruntime.target import OnnxRuntimeTarget
from tests.support.quantized_model import quantized_model
from tests.support.small_models import SMALL_MODELS

INT8 = BuildOptions(precision="int8")


def executed(model, out: Path, options: BuildOptions = INT8) -> dict:
    return OnnxRuntimeTarget().build(model, out, options).manifest.details["executed"]


def test_int8_products_are_told_from_those_that_fell_back(tmp_path: Path):
    found = executed(quantized_model(), tmp_path)
    assert found["int8_planned"] == 3
    assert found["int8_executed"] == {"com.microsoft::QGemm": 1, "com.microsoft::QLinearConv": 1}
    assert found["float_fallbacks"] == ["conv_open"]
    assert found["untraced"] == []
    assert found["conversions"] > 0
    assert found["by_node"] == {"conv_chained": "int8", "conv_open": "float", "gemm_chained": "int8"}


def test_without_optimization_all_products_are_float(tmp_path: Path):
    found = executed(quantized_model(), tmp_path, dataclasses.replace(INT8, settings={"optimization": "disabled"}))
    assert found["int8_executed"] == {}
    assert found["float_fallbacks"] == ["conv_chained", "conv_open", "gemm_chained"]


def test_weight_only_plans_no_int8(tmp_path: Path):
    found = executed(quantized_model(weight_only=True), tmp_path)
    assert (found["int8_planned"], found["int8_executed"], found["float_fallbacks"]) == (0, {}, [])


@pytest.mark.parametrize(("level", "fused"), [("all", 1), ("disabled", 0)])
def test_operators_are_those_of_the_optimized_graph(level: str, fused: int, tmp_path: Path):
    options = BuildOptions(settings={"optimization": level})
    operators = executed(SMALL_MODELS["mlp"].model(), tmp_path, options)["operators"]
    assert operators.get("com.microsoft::FusedGemm", 0) == fused
