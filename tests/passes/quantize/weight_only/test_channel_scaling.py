"""Channel factors in a graph: nothing changes in real numbers, rounding costs less, and what is illegal is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Budget, Recorder
from passes.execution import run_model
from passes.quantize.moments import second_moments, statistics_of
from passes.quantize.weight_only.blocks import Grid, dequantize
from passes.quantize.weight_only.channel_scaling import scale_channels
from passes.quantize.weight_only.rtn import start_rtn
from passes.quantize.weight_only.sites import find_sites
from tests.support.rewriting import add_weights, graph_from, random_array

GRID = Grid(4, 32)

NORM = """g (float[B,S,64] x, float[64] scale, float[64,40] w1, float[24,64] w2) => (float[B,S,40] y, float[M,24] z) {
    n = RMSNormalization <axis = -1> (x, scale)
    y = MatMul (n, w1)
    t = Transpose <perm = [1, 0]> (w2)
    z = MatMul (n, t)
}"""
GATED = """g (float[B,S,32] x, float[32,64] gate, float[32,64] up, float[64,40] down) => (float[B,S,40] y) {
    g1 = MatMul (x, gate) a = Sigmoid (g1) u = MatMul (x, up)
    h = Mul (a, u)
    y = MatMul (h, down)
}"""
RELU = """g (float[N,32] x, float[32,64] first, float[64] bias, float[64,40] down) => (float[N,40] y) {
    f = Gemm (x, first, bias) h = Relu (f) y = MatMul (h, down)
}"""


def weights(model: ir.Model) -> ir.Model:
    """Fill every input but x; one channel of what the last product reads is an outlier."""
    arrays = {}
    for index, value in enumerate(model.graph.inputs[1:]):
        array = random_array(*value.shape.numpy(), seed=index)  # type: ignore[union-attr]
        if value.name == "scale":
            array = np.abs(array) + 0.5
            array[9] *= 40
        if value.name in ("up", "first"):
            array[:, 9] *= 40
        arrays[str(value.name)] = array
    return add_weights(model, **arrays)


def scaled(model: ir.Model, *, limit: int | None = None) -> tuple[ir.Model, Recorder]:
    copy = model.clone()
    width = model.graph.inputs[0].shape[-1]  # type: ignore[index]
    lead = (3,) if len(model.graph.inputs[0].shape) == 2 else (2, 5)  # type: ignore[arg-type]
    samples = [{"x": random_array(*lead, width, seed=seed)} for seed in range(30)]
    recorder = Recorder("test", Budget(limit))
    sites, _ = find_sites(copy)
    moments = second_moments(model, samples)
    scale_channels(copy, sites, lambda _: GRID, moments, recorder)
    for site in sites:
        source = site.uses[0].source
        assert source is not None
        found, known = statistics_of(source, moments), moments[str(source.name)]
        assert found is not None
        changed = "channel_factors" in source.meta
        assert changed == (not np.array_equal(found.matrix, known.matrix))
    return copy, recorder


def rounded(model: ir.Model) -> ir.Model:
    """Return a copy whose weights went through 4 bits."""
    copy = model.clone()
    for site in find_sites(copy)[0]:
        array = site.tensor.numpy()
        real = dequantize(start_rtn(GRID, None)(np.ascontiguousarray(array if site.axis == 0 else array.T)))
        site.value.const_value = ir.Tensor(real if site.axis == 0 else np.ascontiguousarray(real.T))
    return copy


def outputs(model: ir.Model) -> list[np.ndarray]:
    rank = len(model.graph.inputs[0].shape)  # type: ignore[arg-type]
    lead = (7,) if rank == 2 else (2, 7)
    feeds = ({"x": random_array(*lead, model.graph.inputs[0].shape[-1], seed=99)},)  # type: ignore[index]
    return list(next(iter(run_model(model, feeds))).values())


@pytest.mark.parametrize("text", [NORM, GATED, RELU])
def test_nothing_changes_in_real_numbers_and_rounding_costs_less(text: str) -> None:
    model = weights(graph_from(text))
    after, recorder = scaled(model)
    assert [event.rule for event in recorder.applied] == ["scale-channels"]
    assert all(value.uses() for value in after.graph.initializers.values()), "what nothing reads is gone"
    for old, new in zip(outputs(model), outputs(after), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-3 * np.abs(old).max())
    errors = [
        sum(np.square(a - b).sum() for a, b in zip(outputs(rounded(each)), outputs(model), strict=True))
        for each in (model, after)
    ]
    assert errors[1] < 0.85 * errors[0]


def test_factors_go_with_the_value_and_the_moments_are_those_of_the_new_one() -> None:
    model = weights(graph_from(NORM))
    after, _ = scaled(model)
    samples = [{"x": random_array(2, 5, 64, seed=seed)} for seed in range(30)]
    before, now = second_moments(model, samples), second_moments(after, samples)
    value = next(node for node in after.graph if node.op_type == "RMSNormalization").outputs[0]
    found = statistics_of(value, before)
    assert found is not None
    np.testing.assert_allclose(found.matrix, now["n"].matrix, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.magnitude, now["n"].magnitude, rtol=1e-3)


def _graph_input(text: str) -> str:
    return text.replace("n = RMSNormalization <axis = -1> (x, scale)", "").replace("(n,", "(x,")


REFUSALS: list[tuple[str, Callable[[str], str], str]] = [
    (NORM, _graph_input, "it is an input of the graph"),
    (NORM, lambda text: text.replace("y = MatMul (n, w1)", "y = MatMul (n, w1) q = Exp (n)"), "also feeds"),
    (GATED, lambda text: text.replace("h = Mul (a, u)", "h = Add (a, u)"), "made by Add"),
    (GATED, lambda text: text.replace("y = M", "q = Exp (u) y = M"), "neither factor"),
    (RELU, lambda text: text.replace("h = Relu", "h = Tanh"), "made by Tanh"),
    (RELU, lambda text: text.replace("h = Relu", "q = Neg (first) h = Relu"), "'first' before it is read elsewhere"),
]


@pytest.mark.parametrize(("text", "changed", "reason"), REFUSALS)
def test_what_is_illegal_is_refused(text: str, changed: Callable[[str], str], reason: str) -> None:
    model = weights(graph_from(changed(text)))
    after, recorder = scaled(model)
    assert not recorder.applied
    assert any(reason in event.reason for event in recorder.refused)
    for old, new in zip(outputs(model), outputs(after), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_weight_that_stays_in_float_is_refused_and_the_limit_holds() -> None:
    model = weights(graph_from(NORM))
    _, recorder = scaled(model, limit=0)
    assert not recorder.applied
    copy = model.clone()
    sites, _ = find_sites(copy)
    recorder = Recorder("test", Budget())
    moments = second_moments(model, [{"x": random_array(2, 5, 64)}])
    scale_channels(copy, sites, lambda site: GRID if site is sites[0] else None, moments, recorder)
    assert any("stays in float" in event.reason for event in recorder.refused)


def test_a_weight_in_a_constant_node_is_scaled_too() -> None:
    model = weights(graph_from(RELU))
    first = model.graph.initializers.pop("first")
    assert first.const_value is not None
    node = ir.node("Constant", [], {"value": first.const_value}, name="first")
    model.graph.insert_before(model.graph[0], node)
    first.replace_all_uses_with(node.outputs[0])
    node.outputs[0].name = "first"
    after, recorder = scaled(model)
    assert [event.rule for event in recorder.applied] == ["scale-channels"]
    np.testing.assert_allclose(outputs(after)[0], outputs(model)[0], rtol=1e-3, atol=1e-3)


def test_rows_of_a_square_table_are_no_channels() -> None:
    """The entries of a row are what the product after a Gather sums over, not the rows."""
    model = graph_from(
        "g (int64[N] i, float[64,64] t, float[64,40] w) => (float[N,40] y) { h = Gather (t, i) y = MatMul (h, w) }"
    )
    table = random_array(64, 64)
    table[:, 9] *= 40
    model = add_weights(model, t=table, w=random_array(64, 40, seed=1))
    feeds = [{"i": np.arange(64)}]
    recorder, copy = Recorder("test", Budget()), model.clone()
    scale_channels(copy, find_sites(copy)[0], lambda _: GRID, second_moments(model, feeds), recorder)
    assert any("made by Gather" in event.reason for event in recorder.refused)
    assert np.array_equal(run_model(copy, feeds)[0]["y"], run_model(model, feeds)[0]["y"])
