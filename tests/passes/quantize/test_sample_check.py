"""A sample that does not fit is named, with its input, what came and what the model takes."""

from __future__ import annotations

import numpy as np
import pytest

from passes.errors import UsageError
from passes.quantize.calibrate import calibrate
from tests.support.rewriting import graph_from

GOOD = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "lacks the input x"),
        ({"x": GOOD, "z": np.zeros(1)}, "an input that the model lacks: z"),
        ({"x": np.ones((1, 5), np.float32)}, r"the input 'x' is float32\[1,5\], and the model takes float32\[N,4\]"),
        ({"x": np.ones(4, np.float32)}, r"the input 'x' is float32\[4\], and the model takes float32\[N,4\]"),
        ({"x": np.ones((1, 4))}, r"the input 'x' is float64\[1,4\], and the model takes float32\[N,4\]"),
        ({"x": np.full((1, 4), np.nan, np.float32)}, "the input 'x' holds NaN"),
    ],
)
def test_what_does_not_fit_is_named(feeds: dict[str, np.ndarray], message: str) -> None:
    model = graph_from("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    with pytest.raises(UsageError, match=message) as caught:
        calibrate(model, [{"x": GOOD}, feeds])
    assert "sample 1" in str(caught.value)


def test_a_sample_that_the_graph_cannot_compute_is_named() -> None:
    model = graph_from("g (float[N] x, float[M] y) => (float[N] z) { z = Add (x, y) }")
    good = {"x": np.ones(3, np.float32), "y": np.ones(3, np.float32)}
    with pytest.raises(UsageError, match="Calibration sample 1 does not run"):
        calibrate(model, [good, good | {"y": np.ones(2, np.float32)}])


def test_infinite_entries_are_masks() -> None:
    model = graph_from("g (float[N] x) => (float[N] y) { y = Softmax (x) }")
    found = calibrate(model, [{"x": np.array([1.0, -np.inf, 2.0], np.float32)}])
    assert found["x"].high == 2.0


def test_no_samples_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="none were given"):
        calibrate(graph_from("g (float[N] x) => (float[N] y) { y = Relu (x) }"), [])
