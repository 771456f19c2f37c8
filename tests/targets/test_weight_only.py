"""Weights as integers on real runtimes: what the codes say is computed, and the weights stay integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.quantize.weight_only.quantize_weights import QuantizeWeights
from targets.base import BuildOptions, Target
from targets.registry import get_target
from targets.tensorrt.capabilities import capabilities_for
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

MODEL = """g (int64[B,S] i, float[96,64] e, float[64,128] a, float[128,64] b) => (float[B,S,96] y) {
    x = Gather(e, i)
    h = MatMul(x, a)
    s = Sigmoid(h)
    z = MatMul(s, b)
    t = Transpose <perm=[1,0]> (e)
    y = MatMul(z, t)
}"""
FEEDS = {"i": np.array([[0, 95, 7], [3, 2, 1]])}


def model() -> ir.Model:
    built = graph_from(MODEL)
    return add_weights(built, e=random_array(96, 64), a=random_array(64, 128, seed=1), b=random_array(128, 64, seed=2))


def quantized(target: Target, step: QuantizeWeights, precision: str) -> ir.Model:
    options = BuildOptions(precision=precision)
    context = Context(target.capabilities(options))
    after, results = (Pipeline((step,)) + target.pipeline(options)).run(model(), context=context)
    assert len(results[0].applied) == 3
    return after


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 16, 32])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "xla"])
def test_artifacts_compute_with_the_codes(name: str, bits: int, group: int, symmetric: bool, tmp_path: Path) -> None:
    target, precision = get_target(name), f"int{bits}-weight-only"
    options = BuildOptions(precision=precision)
    step = QuantizeWeights(bits=bits, group=group, symmetric=symmetric, head=bits)
    context = Context(target.capabilities(options))
    standard = Pipeline((step,)).run(model(), context=context)[0]
    (expected,) = run_model(standard, (FEEDS,))
    artifact = target.build(quantized(target, step, precision), tmp_path, options)
    with target.open(artifact) as runner:
        found = runner(FEEDS)["y"]
    assert np.abs(found - expected["y"]).max() <= 1e-5 * np.abs(expected["y"]).max()
    stored = sum((tmp_path / file).stat().st_size for file in artifact.manifest.files if file != "model.onnx")
    assert stored < 45_000 + 22_528 * bits // 8 + 22_528 * 5 // 16  # codes, and at most 5 bytes a block


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_multiplies_by_compressed_weights(bits: int, tmp_path: Path) -> None:
    target = get_target("openvino")
    options = BuildOptions(precision=f"int{bits}-weight-only")
    step = QuantizeWeights(bits=bits, group=32, head=bits)
    artifact = target.build(quantized(target, step, options.precision), tmp_path, options)
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(str(artifact.path / "openvino.xml")), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    kinds = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        types = [port.get_element_type().get_type_name() for port in node.inputs()]
        kinds.setdefault(facts["layerType"], []).append(types)
    assert [types[1] for types in kinds["FullyConnected"]] == [f"u{bits}"] * 3
    assert [types[0] for types in kinds["Gather"]] == [f"u{bits}"]


def test_onnxruntime_runs_its_own_operators() -> None:
    after = quantized(get_target("onnxruntime"), QuantizeWeights(group=32), "int4-weight-only")
    found = counts(after)
    assert found["MatMulNBits"] == 3
    assert found["GatherBlockQuantized"] == 1
    assert "DequantizeLinear" not in found


def test_tensorrt_gets_what_its_engines_keep_as_integers() -> None:
    context = Context(capabilities_for([89]))
    after, (result,) = Pipeline((QuantizeWeights(group=32, head=4),)).run(model(), context=context)
    kinds = {str(value.dtype) for name, value in after.graph.initializers.items() if name.endswith("_codes")}
    assert kinds == {"INT4"}
    assert not any(name.endswith("_zero_points") for name in after.graph.initializers)
    assert "tensorrt keeps no table of 4-bit codes, and it is read as one" in reasons(result)
    _, (result,) = Pipeline((QuantizeWeights(group=0, head=4),)).run(model(), context=context)
    refusal = "tensorrt keeps no 4-bit codes with one scale a column, which is asked for"
    assert reasons(result).count(refusal) == 2
    after, _ = Pipeline((QuantizeWeights(bits=8, group=32),)).run(model(), context=context)
    nodes = [node for node in after.graph if node.op_type == "DequantizeLinear"]
    assert [node.attributes.get_int("block_size", 0) for node in nodes] == [0, 0]
