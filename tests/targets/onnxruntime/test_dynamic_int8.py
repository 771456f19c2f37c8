"""int8-dynamic artifacts: every planned product runs on integers, by ONNX Runtime's own account."""

from __future__ import annotations

from pathlib import Path

import pytest

from passes.base import Context
from passes.capabilities import PORTABLE
from passes.pipeline import Pipeline
from passes.quantize.dynamic import QuantizeDynamic
from targets.base import BuildOptions
from targets.onnxruntime.target import OnnxRuntimeTarget
from targets.registry import get_target
from tests.support.rewriting import add_weights, graph_from, random_array

OPTIONS = BuildOptions(precision="int8-dynamic")
TEXT = """g (float[B,S,32] x, float[32,48] u, float[32,48] v, float[48] b, float[48,32] w) => (float[B,S,32] y) {
    p = MatMul (x, u) q = MatMul (x, v) a = Add (p, b) g = Mul (a, q) y = MatMul (g, w)
}"""


@pytest.mark.parametrize("is_standard", [False, True], ids=["own", "standard"])
def test_all_planned_products_execute_on_integers(tmp_path: Path, is_standard: bool) -> None:
    arrays = {
        "u": random_array(32, 48),
        "v": random_array(32, 48, seed=1),
        "b": random_array(48),
        "w": random_array(48, 32),
    }
    source = add_weights(graph_from(TEXT), **arrays)
    target = OnnxRuntimeTarget()
    capabilities = target.capabilities(OPTIONS)
    context = Context(PORTABLE if is_standard else capabilities)
    quantized, _ = Pipeline((QuantizeDynamic(),)).run(source, context=context)
    legal, _ = target.pipeline(OPTIONS).run(quantized, context=Context(capabilities))
    executed = target.build(legal, tmp_path, OPTIONS).manifest.details["executed"]
    assert executed["int8_planned"] == 3
    assert sum(executed["int8_executed"].values()) == 3
    assert executed["float_fallbacks"] == []
    assert "MatMul" not in executed["operators"]


@pytest.mark.parametrize("name", ["openvino", "xla", "tensorrt"])
def test_targets_without_such_kernels_say_so(name: str) -> None:
    arrays = {
        "u": random_array(32, 48),
        "v": random_array(32, 48, seed=1),
        "b": random_array(48),
        "w": random_array(48, 32),
    }
    found = get_target(name).blockers(add_weights(graph_from(TEXT), **arrays), OPTIONS)
    assert len(found) == 1
    assert found[0].reason
