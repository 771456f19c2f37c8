"""bfloat16 graphs run in float32 with rounded results: the same numbers, the same names and types outside."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.precision.convert_float import ConvertBf16
from passes.precision.emulate import has_bfloat16, rounded_to_bfloat16
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = "g (float[N,16] x, float[16,16] w) => (float[N,16] y) { m = MatMul (x, w) y = Relu (m) }"


def test_each_result_is_rounded_and_nothing_else_changes() -> None:
    source = add_weights(graph_from(TEXT), w=random_array(16, 16))
    half, _ = Pipeline((ConvertBf16(),)).run(source)
    assert has_bfloat16(half)
    assert not has_bfloat16(source)
    twin = rounded_to_bfloat16(half)
    assert [(value.name, str(value.dtype)) for value in twin.graph.outputs] == [("y", "FLOAT")]
    x = random_array(3, 16, seed=1)
    ours = run_model(twin, [{"x": x}])[0]["y"]

    def rounded(array: np.ndarray) -> np.ndarray:
        return array.astype(ml_dtypes.bfloat16).astype(np.float32)

    expected = np.maximum(rounded(rounded(x) @ rounded(random_array(16, 16))), 0)
    assert np.allclose(ours, expected, rtol=2**-7, atol=1e-3)
    assert not np.allclose(ours, run_model(source, [{"x": x}])[0]["y"], rtol=1e-4)
    assert np.array_equal(ours, rounded(ours))
