"""The time for sensitivity is bounded, and the number of samples told is the number that was run."""

from __future__ import annotations

from exporter.search.sensitivity import measure_layers
from exporter.search.switchboard import open_switchboard
from passes.base import Context
from passes.quantize.calibrate import calibrate
from passes.quantize.static import QuantizeStatic
from targets.base import BuildOptions
from targets.registry import get_target
from tests.support.rewriting import add_weights, graph_from, random_array


def test_a_spent_budget_is_told_by_the_samples_run() -> None:
    text = "g (float[N,64] x, float[64,64] w) => (float[N,64] y) { a = MatMul (x, w) b = Relu (a) y = MatMul (b, w) }"
    model = add_weights(graph_from(text), w=random_array(64, 64, seed=0))
    samples = [{"x": random_array(3, 64, seed=seed)} for seed in range(4)]
    capabilities = get_target("openvino").capabilities(BuildOptions(precision="int8"))
    quantized = model.clone()
    result = QuantizeStatic().run(quantized, Context(capabilities=capabilities, ranges=calibrate(model, samples)))
    assert result.applied
    with open_switchboard(model, quantized, result, threads=1) as board:
        layers, run = measure_layers(board, samples, budget_s=0.0)
        assert (len(layers), run) == (2, 1)
        assert measure_layers(board, samples)[1] == 4
