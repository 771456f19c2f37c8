"""The original as a build reads it: its dimensions, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from exporter.original import Original, read_original
from exporter.recipe import Recipe
from exporter.report.progress import make_progress
from passes.errors import UsageError
from targets.base import DimRange
from tests.support.onnx_sources import classifier, classifier_samples

TWO_ROWS_AT_A_TIME = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 4] x) => (float[half, 8] y) <int64[2] pairs = {-1, 8}> { y = Reshape (x, pairs) }"""


def original(recipe: Recipe, work: Path) -> Original:
    return read_original(recipe, work=work, progress=make_progress(quiet=True))


def test_batches_that_the_original_refuses_do_not_widen_the_dimensions(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx.parser.parse_model(TWO_ROWS_AT_A_TIME).SerializeToString())
    np.savez(tmp_path / "s.npz", x=np.arange(16, dtype=np.float32).reshape(4, 4))
    got = original(Recipe(str(tmp_path / "m.onnx"), samples=str(tmp_path / "s.npz")), tmp_path / "work")
    assert any("Not verified at" in note for note in got.notes)
    assert got.dims["batch"].minimum > 1


def test_batches_that_the_original_takes_widen_them(tmp_path: Path) -> None:
    samples = classifier_samples(tmp_path / "held_out", seed=1)
    got = original(Recipe(str(classifier(tmp_path / "m.onnx")), samples=str(samples)), tmp_path / "work")
    assert got.references.further
    assert got.dims["batch"].minimum == 1


def test_an_unknown_dimension_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    samples = classifier_samples(tmp_path / "held_out", seed=1)
    recipe = Recipe(str(classifier(tmp_path / "m.onnx")), samples=str(samples), dims={"bach": DimRange(1, 4, 8)})
    with pytest.raises(UsageError, match="no dimension 'bach'") as caught:
        original(recipe, tmp_path / "work")
    assert "'batch'" in caught.value.hint
