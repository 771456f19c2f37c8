"""Walking a graph while it is edited, and moments that know what was rounded before."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.execution import run_model
from passes.quantize.moments import Moments, second_moments
from passes.quantize.propagation import PropagatedMoments
from passes.quantize.walking import Walk
from passes.quantize.weight_only.blocks import Grid, dequantize
from passes.quantize.weight_only.gptq import start_gptq
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = """g (float[B,32] x, float[32,48] w1, float[48,48] w2, float[48,24] w3) => (float[B,24] y) {
    unit = Constant <value_float = 1.0> ()
    two = Add (unit, unit)
    a = MatMul (x, w1) h = Tanh (a)
    b = MatMul (h, w2) c = Add (b, h) d = Mul (c, two) k = Relu (d)
    y = MatMul (k, w3)
}"""


def model() -> ir.Model:
    scale = np.float32(0.3)
    return add_weights(
        graph_from(TEXT),
        w1=random_array(32, 48) * scale,
        w2=random_array(48, 48, seed=1) * scale,
        w3=random_array(48, 24, seed=2) * scale,
    )


def samples(count: int = 20, start: int = 0) -> list[dict[str, np.ndarray]]:
    mixing = random_array(6, 32, seed=77)
    return [
        {"x": random_array(16, 6, seed=start + seed) @ mixing + 0.2 * random_array(16, 32, seed=1000 + start + seed)}
        for seed in range(count)
    ]


def value_of(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for node in graph for value in node.outputs if value.name == name)


def set_weight(edited: ir.Model, name: str, array: np.ndarray) -> None:
    edited.graph.initializers[name].const_value = ir.Tensor(array, name=name)


def outputs(run: ir.Model, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([found["y"] for found in run_model(run, feeds)])


def test_a_walk_gives_the_values_and_takes_up_edits_ahead() -> None:
    edited = model()
    walk = Walk(edited, samples(3))
    h = np.concatenate(list(walk.values(value_of(edited.graph, "h"))))
    rows = np.concatenate([feeds["x"] for feeds in samples(3)])
    np.testing.assert_allclose(h, np.tanh(rows @ edited.graph.initializers["w1"].const_value.numpy()), atol=1e-5)
    set_weight(edited, "w1", np.zeros((32, 48), np.float32))  # behind: it counts no more
    k = np.concatenate(list(walk.values(value_of(edited.graph, "k"))))
    again = np.concatenate(list(walk.values(value_of(edited.graph, "k"))))
    np.testing.assert_array_equal(k, again)
    w2 = model().graph.initializers["w2"].const_value.numpy()
    np.testing.assert_allclose(k, np.maximum(2 * (h @ w2 + h), 0), atol=1e-4)
    set_weight(edited, "w3", np.ones((48, 24), np.float32))  # ahead
    y = np.concatenate(list(walk.values(edited.graph.outputs[0])))
    np.testing.assert_allclose(y, np.repeat(k.sum(axis=1, keepdims=True), 24, axis=1), rtol=1e-4, atol=1e-4)


def test_only_what_is_still_read_is_kept() -> None:
    edited = model()
    walk = Walk(edited, samples(2))
    list(walk.values(value_of(edited.graph, "a")))
    assert [value.name for value in walk._states[0]] == ["a"]
    list(walk.values(value_of(edited.graph, "b")))
    assert sorted(str(value.name) for value in walk._states[1]) == ["b", "h"]
    list(walk.values(edited.graph.outputs[0]))
    assert walk._states == [{}, {}]


def test_with_nothing_rounded_there_is_no_drift_and_the_moments_are_the_plain_ones() -> None:
    original = model()
    edited = original.clone()
    propagated, plain = PropagatedMoments(original, samples()), second_moments(original, samples())
    for name in ("h", "k"):
        found = propagated.of(value_of(edited.graph, name))
        np.testing.assert_allclose(found.matrix, plain[name].matrix, rtol=1e-4, atol=1e-5)
        assert found.rows == plain[name].rows
        assert found.drift is not None
        assert np.abs(found.drift).max() == 0


def test_factors_divide_the_original_too() -> None:
    original = model()
    edited = original.clone()
    factors = np.linspace(0.5, 4, 48, dtype=np.float32)
    value = value_of(edited.graph, "k")
    set_weight(edited, "w1", original.graph.initializers["w1"].const_value.numpy() * np.float32(1.1))
    drift = PropagatedMoments(original, samples()).of(value).drift
    assert drift is not None
    assert np.abs(drift).max() > 0.01
    value.meta["channel_factors"] = np.ones(48, np.float32)
    edited2 = original.clone()
    for node in edited2.graph:
        if node.outputs[0].name == "k":
            node.outputs[0].meta["channel_factors"] = factors
    found = PropagatedMoments(original, samples()).of(value_of(edited2.graph, "k")).drift
    assert found is not None
    assert np.abs(found).max() > 0.1  # the edited graph was not divided: all of it is drift


@pytest.mark.parametrize("with_drift", [True, False])
def test_knowing_the_errors_before_lowers_the_error_at_the_end(with_drift: bool) -> None:
    grid, original = Grid(4, 16), model()
    errors = []
    for propagates in (True, False):
        edited = original.clone()
        propagated, plain = PropagatedMoments(original, samples(60)), second_moments(original, samples(60))
        for name, source in (("w1", "x"), ("w2", "h"), ("w3", "k")):
            value = edited.graph.inputs[0] if source == "x" else value_of(edited.graph, source)
            moments: Moments = propagated.of(value) if propagates else plain[source]
            if propagates and not with_drift:
                moments = Moments(moments.matrix, moments.magnitude, moments.rows)
            weight = edited.graph.initializers[name].const_value.numpy()
            set_weight(edited, name, dequantize(start_gptq(grid, moments)(weight)))
        held_out = samples(20, start=500)
        errors.append(float(np.square(outputs(edited, held_out) - outputs(original, held_out)).mean()))
    if with_drift:
        assert errors[0] < 0.95 * errors[1]
    else:
        assert errors[0] < 1.1 * errors[1]
