"""fp8 graphs: an engine for SM89, refused by name where the compute capability has none, blocked elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.errors import UsageError
from passes.pipeline import Pipeline
from passes.precision.convert_float import ConvertBf16
from passes.quantize.calibrate import calibrate
from passes.quantize.fp8 import QuantizeFp8
from targets.base import BuildOptions, DimRange
from targets.registry import get_target
from targets.tensorrt.planned import planned_precisions
from targets.tensorrt.target import TensorRtTarget
from tests.support.rewriting import add_weights, graph_from, random_array
from tests.targets.tensorrt.test_build import needs_rtx

TEXT = """g (float[N,16,8,8] x, float[32,16,3,3] w1, float[32] b1, float[16,2048] w2) => (float[N,16] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) r = Relu (a) f = Flatten (r) y = Gemm <transB = 1> (f, w2)
}"""
OPTIONS = BuildOptions(precision="fp8", settings={"sm": "89"}, dims={"N": DimRange(1, 2, 4)})


def network() -> ir.Model:
    arrays = {"w1": random_array(32, 16, 3, 3), "b1": random_array(32, seed=1), "w2": random_array(16, 2048, seed=2)}
    return add_weights(graph_from(TEXT), **arrays)


def quantized() -> ir.Model:
    feeds = [{"x": random_array(2, 16, 8, 8, seed=seed)} for seed in range(3)]
    context = Context(TensorRtTarget().capabilities(OPTIONS), ranges=calibrate(network(), feeds))
    after, _ = Pipeline((QuantizeFp8(),)).run(network(), context=context)
    return TensorRtTarget().pipeline(OPTIONS).run(after, context=context)[0]


def test_the_graph_plans_fp8_and_nothing_blocks_it() -> None:
    assert planned_precisions(quantized())["by_operator"] == {"Conv": {"fp8": 1}, "Gemm": {"fp8": 1}}
    assert TensorRtTarget().blockers(quantized(), OPTIONS) == ()
    left = TensorRtTarget().blockers(network(), OPTIONS)
    assert [blocker.operator for blocker in left] == ["fp8"]


@needs_rtx
def test_an_engine_is_built_for_sm89(tmp_path: Path) -> None:
    artifact = TensorRtTarget().build(quantized(), tmp_path, OPTIONS)
    engine = artifact.manifest.details["engines"]["89"]
    assert engine["tensor_types"]["FP8"] >= 2
    assert (tmp_path / "engine.sm89.plan").stat().st_size == engine["bytes"]


@needs_rtx
def test_a_converted_bf16_graph_is_built_for_sm80(tmp_path: Path) -> None:
    options = BuildOptions(precision="bf16", settings={"sm": "80"}, dims=OPTIONS.dims)
    context = Context(TensorRtTarget().capabilities(options))
    half, _ = Pipeline((ConvertBf16(),)).run(network(), context=context)
    artifact = TensorRtTarget().build(half, tmp_path, options)
    assert artifact.manifest.details["engines"]["80"]["tensor_types"]["BF16"] >= 2


@pytest.mark.parametrize(("precision", "sm"), [("fp8", "86"), ("fp8", "75+89"), ("bf16", "75")])
def test_a_compute_capability_without_it_is_refused_by_name(precision: str, sm: str) -> None:
    with pytest.raises(UsageError, match="does not compute in"):
        TensorRtTarget().check(BuildOptions(precision=precision, settings={"sm": sm}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "xla"])
def test_targets_without_fp8_products_say_so(name: str) -> None:
    target = get_target(name)
    options = BuildOptions(precision="fp8")
    assert "fp8" not in target.capabilities(options).precisions
    found = [blocker for blocker in target.blockers(network(), options) if blocker.operator == "precision"]
    assert len(found) == 1
    assert "float8" in found[0].reason


def test_float8_kernels_of_onnx_runtime_run_the_lowered_graph() -> None:
    from passes.execution import run_model

    feeds = [{"x": random_array(2, 16, 8, 8, seed=9)}]
    before, after = (run_model(model, feeds)[0]["y"] for model in (network(), quantized()))
    assert 10 * np.log10(np.square(before).sum() / np.square(before - after).sum()) > 20
