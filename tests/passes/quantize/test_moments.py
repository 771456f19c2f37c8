"""Second moments: those of the rows, whatever the grouping, the shapes and the layout of the weight."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.errors import UsageError
from passes.quantize import moments as moments_module
from passes.quantize.moments import second_moments
from tests.support.rewriting import add_weights, graph_from, random_array

TEXT = """g (float[B,S,4] x, float[4,6] w1, float[5,6] w2) => (float[M,5] z) {
    flat = Constant <value_ints = [-1, 6]> ()
    y = MatMul (x, w1) h = Tanh (y) r = Reshape (h, flat)
    z = Gemm <transB = 1> (r, w2)
}"""


def model() -> ir.Model:
    return add_weights(graph_from(TEXT), w1=random_array(4, 6), w2=random_array(5, 6, seed=1))


def samples() -> list[dict[str, np.ndarray]]:
    return [{"x": random_array(1 + seed, 3, 4, seed=seed)} for seed in range(3)]


def rows_of(name: str) -> np.ndarray:
    """Return every row of the two values, computed here."""
    x = np.concatenate([feeds["x"].reshape(-1, 4) for feeds in samples()]).astype(np.float64)
    return x if name == "x" else np.tanh(x @ random_array(4, 6))


@pytest.mark.parametrize("held_bytes", [1 << 20, 150])
def test_they_are_those_of_the_rows(held_bytes: int) -> None:
    found = second_moments(model(), samples(), held_bytes=held_bytes)
    assert list(found) == ["x", "r"]
    for name in ("r", "x", "r"):  # in any order, and again
        rows = rows_of(name)
        assert found[name].rows == len(rows) == 18
        np.testing.assert_allclose(found[name].matrix, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[name].magnitude, np.abs(rows).mean(axis=0), rtol=1e-5)


def test_the_error_of_a_product_is_the_trace() -> None:
    off = random_array(6, 5, seed=9).astype(np.float64)
    expected = np.square(rows_of("r") @ off).sum(axis=1).mean()
    matrix = second_moments(model(), samples())["r"].matrix
    assert np.trace(off.T @ matrix @ off) == pytest.approx(expected, rel=1e-4)


def test_nothing_runs_before_it_is_asked_for_and_each_group_reads_the_samples_once() -> None:
    done: list[int] = []
    found = second_moments(model(), samples(), held_bytes=150, progress=done.append)
    assert done == []
    for name in ("x", "r", "x", "r"):
        assert found[name].rows == 18
    assert done == [1, 2, 3, 1, 2, 3]


def test_one_group_holds_no_more_than_the_bound() -> None:
    found = second_moments(model(), samples(), held_bytes=150)
    assert found.groups == (("x",), ("r",))
    assert second_moments(model(), samples(), held_bytes=100).groups == (("x",),)  # [6, 6] alone is larger


def test_rows_of_a_mask_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": random_array(1, 3, 4)}
    feeds["x"][0, 1, 2] = -3.4e38
    matrix = second_moments(model(), [feeds], values=["x"])["x"].matrix
    kept = feeds["x"][0, [0, 2]]
    np.testing.assert_allclose(matrix, kept.T @ kept / 2, rtol=1e-5)
    monkeypatch.setattr(moments_module, "LARGEST_REAL", np.float32(np.inf))
    with np.errstate(over="ignore"):
        assert not np.isfinite(second_moments(model(), [feeds], values=["x"])["x"].matrix).all()


def test_wrong_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="none were given"):
        second_moments(model(), [])["x"]
    with pytest.raises(UsageError, match="read 2 times"):
        second_moments(model(), iter(samples()), held_bytes=150)
    with pytest.raises(UsageError, match="lacks the input x"):
        second_moments(model(), [{}])["x"]
    with pytest.raises(KeyError):
        second_moments(model(), samples())["h"]
