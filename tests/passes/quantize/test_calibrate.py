"""Calibration: one pass, any shape, bounded memory, and no scale from masks or constants."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from passes.quantize.calibrate import calibrate
from passes.quantize.range_methods import RANGE_METHODS
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


def test_small_segments_give_the_same_ranges_and_samples_are_read_once() -> None:
    text = "g (float[N,8] x) => (float[N,8] d) { a = Tanh (x) b = Sigmoid (a) c = Exp (b) d = Neg (c) }"
    samples = [{"x": random_array(4, 8, seed=seed)} for seed in range(3)]
    done: list[int] = []
    whole = calibrate(graph_from(text), samples)
    grouped = calibrate(graph_from(text), iter(samples), segment_bytes=1, progress=done.append)
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


def test_a_transposed_batch_may_vary() -> None:
    text = "g (float[16,N] x, float[16,8] w) => (float[N,8] y) { y = Gemm <transA = 1> (x, w) }"
    model = add_weights(graph_from(text), w=random_array(16, 8))
    ranges = calibrate(model, [{"x": random_array(16, size)} for size in (3, 5, 1)])
    assert set(ranges) == {"x", "y"}


def test_clipping_an_outlier_costs_less_than_a_coarse_step() -> None:
    model = graph_from("g (float[N] x) => (float[N] y) { y = Identity (x) }")
    data = random_array(100_000)
    data[0] = 300.0
    found = {method: calibrate(model, [{"x": data}], method=method)["x"] for method in RANGE_METHODS}
    assert found["minmax"].high == found["moving-average"].high == 300.0
    assert max(found[method].high for method in ("mse", "entropy", "auto")) < 300.0
    assert found["percentile"].high < 6.0
    assert all(seen.observed_high == 300.0 for seen in found.values())


def test_moved_entries_are_counted_once_and_share_a_range() -> None:
    text = """g (float[N,6] x, float[6,5] w) => (float[N,5] y, float[M] f) {
        a = Tanh (x)
        six = Constant <value_ints = [-1, 6]> () flat = Constant <value_ints = [-1]> ()
        t = Transpose <perm = [1, 0]> (a) u = Transpose <perm = [1, 0]> (t) r = Reshape (u, six)
        y = MatMul (r, w) f = Reshape (y, flat)
    }"""
    model = add_weights(graph_from(text), w=random_array(6, 5))
    ranges = calibrate(model, [{"x": random_array(3, 6)}])
    for one, other in (("a", "t"), ("a", "u"), ("a", "r"), ("y", "f")):
        assert replace(ranges[one], channels=None) == replace(ranges[other], channels=None)
    assert ranges["r"].channels is not None
    assert ranges["a"].channels is None
    assert ranges["f"] != ranges["a"]


def test_auto_keeps_the_outliers_that_a_norm_reads_and_clips_those_that_a_product_reads() -> None:
    text = """g (float[N,64] x, float[N,64] z, float[64,8] w, float[64] s) => (float[N,64] n, float[N,8] y) {
        a = Identity (x) b = Add (a, z) n = LayerNormalization (b, s)
        c = Neg (x) y = MatMul (c, w)
    }"""
    model = add_weights(graph_from(text), w=random_array(64, 8), s=np.ones(64, np.float32))
    x = random_array(500, 64)
    x[0, 0] = 300.0
    found = {method: calibrate(model, [{"x": x, "z": x * 0}], method=method) for method in ("auto", "mse")}  # type: ignore[arg-type]
    assert found["auto"]["b"].high == found["auto"]["a"].high == 300.0
    assert found["mse"]["b"].high < 300.0
    assert found["auto"]["c"].low > -300.0


def test_threads_change_nothing() -> None:
    text = "g (float[N,8] x) => (float[N,8] d) { a = Tanh (x) b = Sigmoid (a) c = Exp (b) d = Neg (c) }"
    samples = [{"x": random_array(4, 8, seed=seed)} for seed in range(5)]
    assert dict(calibrate(graph_from(text), samples)) == dict(calibrate(graph_from(text), samples, threads=4))


PEAK = """
import sys
from pathlib import Path

import numpy as np

from passes.quantize.calibrate import calibrate
from passes.serialization import load_model

path, count, columns = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
random = np.random.default_rng(0)
samples = ({"x": random.normal(size=(1 + index % 4, columns)).astype(np.float32)} for index in range(count))
calibrate(load_model(path), samples, segment_bytes=2 << 20)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def peak_mb(path: Path, count: int, columns: int) -> float:
    command = [sys.executable, "-c", PEAK, str(path), str(count), str(columns)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e3


def test_memory_depends_neither_on_the_number_of_samples_nor_on_that_of_values(tmp_path: Path) -> None:
    columns = 1 << 16
    peaks: dict[tuple[int, int], float] = {}
    for length, count in ((10, 8), (40, 8), (40, 64)):
        chain = " ".join(f"v{index + 1} = Tanh (v{index})" for index in range(length))
        text = f"g (float[N,{columns}] x) => (float[N,{columns}] v{length}) {{ v0 = Tanh (x) {chain} }}"
        save_model(graph_from(text), tmp_path / "m.onnx")
        peaks[length, count] = peak_mb(tmp_path / "m.onnx", count, columns)
    assert peaks[40, 64] < peaks[40, 8] + 8
    assert peaks[40, 8] < peaks[10, 8] + 12, "30 more values of 1 MB are not held, only their histograms"


def test_weights_are_held_once(tmp_path: Path) -> None:
    size, each_mb = 2048, 2048 * 2048 * 4 / 1e6
    peaks: list[float] = []
    for count in (1, 9):
        names = [f"w{index}" for index in range(count)]
        products = " ".join(f"v{index + 1} = MatMul (v{index}, w{index})" for index in range(count))
        inputs = ", ".join(f"float[{size},{size}] {name}" for name in names)
        text = f"g (float[N,{size}] x, {inputs}) => (float[N,{size}] v{count}) {{ v0 = Tanh (x) {products} }}"
        weight = np.full((size, size), 1e-4, np.float32)
        save_model(add_weights(graph_from(text), **dict.fromkeys(names, weight)), tmp_path / "m.onnx")
        peaks.append(peak_mb(tmp_path / "m.onnx", 2, size))
    assert peaks[1] - peaks[0] < 8 * each_mb * 1.3
