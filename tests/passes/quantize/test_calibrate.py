"""Calibration: one pass, any shape, bounded memory, and no scale from masks or constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from passes.errors import UsageError
from passes.quantize.calibrate import calibrate
from passes.quantize.exposure import ExposedGraph
from passes.quantize.range_methods import RANGE_METHODS
from passes.quantize.value_groups import ValueGroups
from passes.serialization import load_model, save_model
from tests.support.rewriting import add_weights, graph_from, random_array

MASKED = """g (float[N,S] x, int64[N,S] mask) => (float[N,S] y) {
    one = Constant <value = float {1.0}> () least = Constant <value = float {-3.4e38}> ()
    m = Cast <to = 1> (mask)
    inverse = Sub (one, m)
    bias = Mul (inverse, least)
    scores = Add (x, bias)
    y = Softmax (scores)
}"""


def masked_samples() -> list[dict[str, np.ndarray]]:
    mask = np.ones((2, 5), np.int64)
    mask[:, 3:] = 0
    return [{"x": random_array(2, 5, seed=seed), "mask": mask} for seed in range(3)]


@pytest.mark.parametrize("method", RANGE_METHODS)
def test_masks_and_constants_never_become_a_range(method: str) -> None:
    model = graph_from(MASKED)
    ShapeInferencePass()(model)
    ranges = calibrate(model, masked_samples(), method=method)  # type: ignore[arg-type]
    assert set(ranges) == {"x", "scores", "y"}
    assert all(abs(bound) < 10 for seen in ranges.values() for bound in (seen.low, seen.high, seen.observed_low))
    reasons = {event.node: event.reason for event in ranges.excluded}
    assert "a mask or an index" in reasons["bias"]
    assert "12 entries were not finite or beyond 1e30" in reasons["scores"]


def test_a_learned_table_is_signal_and_a_mask_table_is_not() -> None:
    text = """g (int64[N] i, float[6,4] learned, float[6,6] causal) => (float[N,4] a, float[N,6] b) {
        a = Gather (learned, i) b = Gather (causal, i)
    }"""
    causal = np.where(np.tri(6) > 0, 0, -1e9).astype(np.float32)
    model = add_weights(graph_from(text), learned=random_array(6, 4), causal=causal)
    ranges = calibrate(model, [{"i": np.arange(6)}])
    assert set(ranges) == {"a"}


def test_shapes_may_differ_and_order_and_batching_do_not_matter() -> None:
    model = graph_from("g (float[N,S] x) => (float[N,S] y) { y = Tanh (x) }")
    pieces = [random_array(2, 3 + seed, seed=seed) for seed in range(4)]
    forward = calibrate(model, [{"x": piece} for piece in pieces])
    backward = calibrate(model, [{"x": piece} for piece in reversed(pieces)])
    at_once = calibrate(model, [{"x": np.concatenate([piece.reshape(1, -1) for piece in pieces], axis=1)}])
    assert dict(forward) == dict(backward) == dict(at_once)
    assert forward.samples == 4


def test_small_groups_give_the_same_ranges_and_samples_are_read_once() -> None:
    text = "g (float[N,8] x) => (float[N,8] d) { a = Tanh (x) b = Sigmoid (a) c = Exp (b) d = Neg (c) }"
    samples = [{"x": random_array(4, 8, seed=seed)} for seed in range(3)]
    done: list[int] = []
    whole = calibrate(graph_from(text), samples)
    grouped = calibrate(graph_from(text), iter(samples), group_bytes=1, progress=done.append)
    assert dict(whole) == dict(grouped)
    assert done == [1, 2, 3]


def test_weights_in_a_file_are_shared_not_copied(tmp_path: Path) -> None:
    model = graph_from("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul (x, w) }")
    save_model(add_weights(model, w=random_array(64, 64)), tmp_path / "m.onnx")
    loaded = load_model(tmp_path / "m.onnx")
    ranges = calibrate(loaded, [{"x": random_array(4, 64)}])
    assert isinstance(loaded.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert len(ranges["x"].channels.low) == 64  # type: ignore[union-attr]


def test_a_branchs_weights_in_a_file_are_read_in(tmp_path: Path) -> None:
    text = """g (float[N,64] x, bool p) => (float[N,64] y) {
        y = If (p) <then_branch = t () => (float[N,64] b) { b = MatMul (x, w) },
                    else_branch = e () => (float[N,64] c) { k = Constant <value_int = 2> () f = CastLike (k, x)
                                                           c = Mul (x, f) }>
    }"""
    model = graph_from(text.replace("t () =>", "t (float[64,64] w) =>"))
    branch = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    weight = branch.inputs.pop(0)
    weight.const_value = ir.Tensor(random_array(64, 64), name="w")
    branch.register_initializer(weight)
    ir.save(model, tmp_path / "m.onnx", external_data="m.bin", size_threshold_bytes=0)
    loaded = load_model(tmp_path / "m.onnx")
    (kept,) = (value for graph in loaded.graphs() for value in graph.initializers.values())
    assert isinstance(kept.const_value, ir.ExternalTensor)
    assert set(calibrate(loaded, [{"x": random_array(4, 64), "p": np.array(True)}])) == {"x", "y"}
    assert isinstance(kept.const_value, ir.ExternalTensor)


def test_a_constants_tensor_in_a_file_is_read_in(tmp_path: Path) -> None:
    model = graph_from("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul (x, w) }")
    proto = ir.to_proto(add_weights(model, w=random_array(64, 64)))
    tensor = proto.graph.initializer.pop()
    constant = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    proto.graph.node.insert(0, constant)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", convert_attribute=True)
    loaded = load_model(tmp_path / "m.onnx")
    assert isinstance(loaded.graph[0].attributes["value"].value, ir.ExternalTensor)
    assert "y" in calibrate(loaded, [{"x": random_array(4, 64)}])


def test_a_larger_sample_is_planned_for_and_a_smaller_one_is_not() -> None:
    text = "g (float[N,M] x) => (float[N,M] c) { a = Tanh (x) b = Sigmoid (a) c = Exp (b) }"
    plan = ValueGroups(ExposedGraph(graph_from(text), threads=1), ("a", "b", "c"), 1000)

    def groups(*shape: int) -> list[tuple[str, ...]]:
        return [names for names, _ in plan.groups({"x": random_array(*shape)}, sample=0)]

    assert groups(1, 16) == [("a", "b", "c")]
    assert groups(7, 16) == [("a", "b"), ("c",)]
    assert groups(16, 7) == [("a", "b"), ("c",)]
    before = plan.groups({"x": random_array(1, 16)}, sample=0)
    assert groups(1000, 16) == [("a",), ("b",), ("c",)]
    assert plan.groups({"x": random_array(3, 3)}, sample=0)[2] == before[1], "an unchanged group keeps its session"


def test_a_transposed_batch_may_vary() -> None:
    text = "g (float[16,N] x, float[16,8] w) => (float[N,8] y) { y = Gemm <transA = 1> (x, w) }"
    model = add_weights(graph_from(text), w=random_array(16, 8))
    ranges = calibrate(model, [{"x": random_array(16, size)} for size in (3, 5, 1)])
    assert set(ranges) == {"x", "y"}


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "lacks the input x"),
        ({"x": np.zeros((1, 4), np.float32), "z": np.zeros(1)}, "an input that the model lacks: z"),
        ({"x": np.zeros((1, 5), np.float32)}, "does not run"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(feeds: dict[str, np.ndarray], message: str) -> None:
    model = graph_from("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    good = {"x": np.ones((1, 4), np.float32)}
    with pytest.raises(UsageError, match=message) as caught:
        calibrate(model, [good, feeds])
    assert "sample 1" in str(caught.value)


def test_no_samples_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="none were given"):
        calibrate(graph_from("g (float[N] x) => (float[N] y) { y = Relu (x) }"), [])


def test_clipping_an_outlier_costs_less_than_a_coarse_step() -> None:
    model = graph_from("g (float[N] x) => (float[N] y) { y = Identity (x) }")
    data = random_array(100_000)
    data[0] = 300.0
    found = {method: calibrate(model, [{"x": data}], method=method)["x"] for method in RANGE_METHODS}
    assert found["minmax"].high == 300.0
    assert found["mse"].high < 300.0
    assert found["percentile"].high < 6.0
    assert all(seen.observed_high == 300.0 for seen in found.values())
