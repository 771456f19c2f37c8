"""A graph with a switch for each operator is the float graph, the quantized one, and everything between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, PassResult
from passes.capabilities import Capabilities, QuantizationSupport
from passes.execution import open_session, run_model
from passes.pipeline import Pipeline
from passes.quantize.calibrate import calibrate
from passes.quantize.ranges import Ranges
from passes.quantize.static import QuantizeStatic
from passes.quantize.switches import SwitchGraph, switch_graph
from tests.support.rewriting import add_weights, graph_from, random_array

CHAINED = QuantizationSupport(
    operators=frozenset({"Conv", "MatMul", "Gemm", "Add"}),
    passthrough=frozenset({"MaxPool", "Reshape", "Transpose", "Flatten"}),
    float_fused=frozenset({"Relu", "Clip"}),
    activation_types=("uint8", "int8"),
    symmetric_activations=False,
    bias="int32",
    quantize_outputs=True,
    float_output=frozenset({"MatMul", "Gemm"}),
)
INPUTS_ONLY = replace(CHAINED, operators=frozenset({"Conv", "MatMul", "Gemm"}), bias="float32", quantize_outputs=False)
NETWORK = """g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[512,16] w3, float[16] b3)
      => (float[N,16] y, float[N,8,8,8] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv (r, w2)
    z = Sigmoid (c)
    s = Add (c, r)
    t = Relu (s)
    f = Flatten (t)
    m = MatMul (f, w3)
    y = Add (m, b3)
}"""
FEEDS = [{"x": random_array(2 + index, 4, 8, 8, seed=9 + index)} for index in range(4)]


def network() -> ir.Model:
    return add_weights(
        graph_from(NETWORK),
        w1=random_array(8, 4, 3, 3, seed=1),
        b1=random_array(8, seed=2),
        w2=random_array(8, 8, 1, 1, seed=3),
        w3=random_array(512, 16, seed=4),
        b3=random_array(16, seed=5),
    )


def quantized(
    model: ir.Model, support: QuantizationSupport, ranges: Ranges, **options: object
) -> tuple[ir.Model, PassResult]:
    context = Context(Capabilities("test", 23, quantization=support), ranges=ranges)
    after, results = Pipeline((QuantizeStatic(**options),)).run(model, context=context)  # type: ignore[arg-type]
    return after, results[0]


def outputs(graph: SwitchGraph, on: set[str], folder: Path) -> np.ndarray:
    session = open_session(graph.model, folder)
    switches = np.array([switch.name in on for switch in graph.switches])
    return session.run(list(graph.outputs), {**FEEDS[0], graph.switch_input: switches})[0]


@pytest.mark.parametrize("support", [CHAINED, INPUTS_ONLY], ids=["chained", "inputs-only"])
def test_all_off_is_the_float_graph_and_all_on_the_quantized_one(support: QuantizationSupport, tmp_path: Path) -> None:
    model = network()
    after, result = quantized(model, support, calibrate(model, FEEDS))
    graph = switch_graph(model, after, result)
    names = {switch.name for switch in graph.switches}
    assert len(names) == (4 if support is CHAINED else 3)
    plain, low = (run_model(each, FEEDS[:1])[0]["y"] for each in (model, after))
    assert not np.array_equal(plain, low)
    np.testing.assert_array_equal(outputs(graph, set(), tmp_path), plain)
    np.testing.assert_array_equal(outputs(graph, names, tmp_path), low)


def test_one_on_is_the_graph_with_all_others_kept(tmp_path: Path) -> None:
    model = network()
    ranges = calibrate(model, FEEDS)
    after, result = quantized(model, INPUTS_ONLY, ranges)
    graph = switch_graph(model, after, result)
    names = [switch.name for switch in graph.switches]
    found = []
    for name in names:
        alone, _ = quantized(model, INPUTS_ONLY, ranges, keep=tuple(each for each in names if each != name))
        expected = run_model(alone, FEEDS[:1])[0]["y"]
        np.testing.assert_array_equal(outputs(graph, {name}, tmp_path), expected)
        found.append(expected)
    assert not np.array_equal(found[0], found[1])


def test_each_switch_knows_its_result_s_shape_and_its_products(tmp_path: Path) -> None:
    model = network()
    after, result = quantized(model, INPUTS_ONLY, calibrate(model, FEEDS))
    graph = switch_graph(model, after, result)
    session = open_session(graph.model, tmp_path)
    feeds = {**FEEDS[0], graph.switch_input: np.zeros(3, np.bool_)}
    shapes = session.run([switch.shape_output for switch in graph.switches], feeds)
    assert [list(shape) for shape in shapes] == [[2, 8, 8, 8], [2, 8, 8, 8], [2, 16]]
    assert [switch.row for switch in graph.switches] == [4 * 9, 8, 512]


def test_neither_graph_is_changed() -> None:
    model = network()
    after, result = quantized(model, CHAINED, calibrate(model, FEEDS))
    before = [ir.to_onnx_text(each) for each in (model, after)]
    switch_graph(model, after, result)
    assert [ir.to_onnx_text(each) for each in (model, after)] == before
