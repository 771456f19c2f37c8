"""Why OpenVINO ran planned int8 products in float: on graphs where it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from targets.base import BuildOptions
from targets.openvino.fallbacks import UNKNOWN, fallbacks
from targets.openvino.target import OpenVinoTarget
from tests.support.quantized_chains import Chain, fast_products


def executed(model: ir.Model, out: Path) -> dict:
    return OpenVinoTarget().build(model, out, BuildOptions(precision="int8")).manifest.details["executed"]


def depthwise(*, zero: int) -> ir.Model:
    chain = Chain([1, 16, 12, 12], quantized=True)
    data = chain.pair("x")
    codes = chain.constant(chain.random.integers(-100, 100, (16, 1, 3, 3)).astype(np.int8))
    scales, zeros = (chain.constant(np.full(16, each)) for each in (np.float32(0.01), np.int8(zero)))
    weights = chain.node("DequantizeLinear", [codes, scales, zeros], axis=0)
    chain.value = chain.pair(chain.node("Conv", [data, weights], name="depthwise", group=16))
    return chain.model()


def test_depthwise_with_asymmetric_weights(tmp_path: Path):
    (found,) = executed(depthwise(zero=7), tmp_path)["fallbacks"]
    assert (found["node"], found["operator"]) == ("depthwise", "Conv")
    assert found["reason"].startswith(
        "it is a grouped convolution with asymmetric weights (it ran as Convolution in f32"
    )


def test_symmetric_depthwise_runs_in_int8(tmp_path: Path):
    found = executed(depthwise(zero=0), tmp_path)
    assert (found["fallbacks"], found["int8_executed"]) == ([], {"Convolution": 1})


@pytest.mark.parametrize("quantized", [True, False])
def test_conversions_are_counted(quantized: bool, tmp_path: Path):
    model = fast_products(quantized=quantized, count=1)
    options = BuildOptions(precision="int8" if quantized else "fp32")
    found = OpenVinoTarget().build(model, tmp_path, options).manifest.details["executed"]
    assert found["conversions"] == (2 if quantized else 0)


def test_a_kernel_without_a_reason_says_so():
    model = fast_products(quantized=True, count=1)
    (found,) = fallbacks([{"node": "matmul_0", "kernel": "FullyConnected in f32, brgemm"}], model)
    assert found["reason"] == f"{UNKNOWN} (it ran as FullyConnected in f32, brgemm)"
