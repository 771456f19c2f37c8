"""What OpenVINO ran, as the manifest tells it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from targets.base import BuildOptions
from targets.openvino.capabilities import optimizations_of
from targets.openvino.executed import executed_from_compiled
from targets.openvino.target import OpenVinoTarget
from tests.support.quantized_model import quantized_model
from tests.support.small_models import SMALL_MODELS


def executed(model, out: Path, **options) -> dict:
    return OpenVinoTarget().build(model, out, BuildOptions(**options)).manifest.details["executed"]


def test_int8_products_run_in_int8(tmp_path: Path):
    found = executed(quantized_model(), tmp_path, precision="int8")
    assert found["int8_planned"] == 3
    assert found["int8_executed"] == {"Convolution": 2, "FullyConnected": 1}
    assert found["float_fallbacks"] == []
    assert found["untraced"] == []
    assert found["by_node"] == dict.fromkeys(["conv_chained", "conv_open", "gemm_chained"], "int8")


def test_float_products_run_in_the_stated_precision(tmp_path: Path):
    found = executed(SMALL_MODELS["convolutions"].model(), tmp_path)
    assert found["operators"]["Convolution"] == 2
    assert set(found["precisions"]) <= {"f32", "i32", "i64"}
    assert (found["int8_planned"], found["int8_executed"]) == (0, {})


@pytest.mark.skipif("BF16" not in optimizations_of("CPU"), reason="this CPU has no bf16: see the blocker test")
def test_bfloat16_shows(tmp_path: Path):
    assert "bf16" in executed(SMALL_MODELS["mlp"].model(), tmp_path, precision="bf16")["precisions"]


def node(kind: str, precision: str, originals: str) -> SimpleNamespace:
    facts = {"layerType": kind, "runtimePrecision": precision, "primitiveType": "jit", "originalLayersNames": originals}
    return SimpleNamespace(get_rt_info=lambda: facts)


def compiled(*nodes: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(get_runtime_model=lambda: SimpleNamespace(get_ordered_ops=lambda: list(nodes)))


def test_planned_products_in_float_are_named_with_their_kernel():
    found = executed_from_compiled(
        compiled(
            node("Const", "i8", "w"),
            node("Convolution", "u8", "/net/conv_1/WithoutBiases,relu_1"),
            node("FullyConnected", "f32", "matmul_1,add_1"),
            node("Subgraph", "u8", "attention_matmul"),
        ),
        ["/net/conv_1", "matmul_1", "attention_matmul", "gone"],
        named={"/net/conv_1": ["/net/conv_1"], "matmul_0": ["matmul_0", "add_1"], "gone": ["gone"]},
    )
    assert found["by_node"] == {"/net/conv_1": "int8", "matmul_0": "fp32"}
    assert found["int8_executed"] == {"Convolution": 1}
    assert found["float_fallbacks"] == ["matmul_1: FullyConnected in f32 (jit)"]
    assert found["untraced"] == ["attention_matmul", "gone"]
    assert found["operators"] == {"Convolution": 1, "FullyConnected": 1, "Subgraph": 1}
