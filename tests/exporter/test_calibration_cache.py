"""A calibration cache is used when nothing that the ranges depend on has changed, and never otherwise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from exporter.calibration import calibrated_ranges
from exporter.report.progress import make_progress
from exporter.samples import Samples
from passes.errors import UsageError
from passes.quantize.range_methods import RangeMethod
from passes.quantize.ranges import Ranges
from passes.serialization import load_model, save_model
from tests.support.rewriting import add_weights, graph_from, random_array

SAMPLES = Samples("here", held=tuple({"x": random_array(3, 16, seed=seed)} for seed in range(3)))
TEXT = "g (float[N,16] x, float[16,32] w) => (float[N,32] y) { a = Tanh (x) y = MatMul (a, w) }"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import passes.quantize.calibrate as module

    made: list[str] = []
    real = module.calibrate

    def counted(*arguments: object, **options: object) -> Ranges:
        made.append("calibrated")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "calibrate", counted)
    return made


def ranges_of(
    folder: Path, cache: Path | None, *, samples: Samples = SAMPLES, method: RangeMethod = "mse", seed: int = 0
) -> Ranges:
    file = folder / "model.onnx"
    save_model(add_weights(graph_from(TEXT), w=random_array(16, 32, seed=seed)), file)
    return calibrated_ranges(
        load_model(file),
        samples,
        file=file,
        method=method,
        threads=1,
        cache=cache,
        progress=make_progress(quiet=True),
    )


def test_the_same_build_reads_the_ranges_exactly(tmp_path: Path, calls: list[str]) -> None:
    first = ranges_of(tmp_path, tmp_path / "new" / "cache.json")
    second = ranges_of(tmp_path, tmp_path / "new" / "cache.json")
    assert calls == ["calibrated"]
    assert dict(second) == dict(first)
    assert (second.excluded, second.samples, second.method) == (first.excluded, 3, "mse")
    assert second["a"].channels is not None


@pytest.mark.parametrize("changed", ["samples", "method", "weights"])
def test_a_change_of_what_they_depend_on_makes_them_anew(tmp_path: Path, calls: list[str], changed: str) -> None:
    cache = tmp_path / "cache.json"
    ranges_of(tmp_path, cache)
    held = ({"x": SAMPLES.held[0]["x"] + np.float32(1e-6)}, *SAMPLES.held[1:])
    again = {
        "samples": lambda: ranges_of(tmp_path, cache, samples=replace(SAMPLES, held=held)),
        "method": lambda: ranges_of(tmp_path, cache, method="minmax"),
        "weights": lambda: ranges_of(tmp_path, cache, seed=1),
    }[changed]
    fresh = again()
    assert len(calls) == 2
    assert dict(again()) == dict(fresh)
    assert len(calls) == 2


def test_without_a_cache_nothing_is_written(tmp_path: Path, calls: list[str]) -> None:
    ranges_of(tmp_path, None)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert calls == ["calibrated"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "another"}', "\x00"])
def test_another_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "notes.json"
    cache.write_text(content)
    with pytest.raises(UsageError, match="is not a calibration cache"):
        ranges_of(tmp_path, cache)
    assert cache.read_text() == content


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    ranges_of(tmp_path, cache)
    content = json.loads(cache.read_text())
    del content["ranges"]["a"]["low"]
    cache.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is not a calibration cache"):
        ranges_of(tmp_path, cache)


def test_a_cache_with_text_for_a_number_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    ranges_of(tmp_path, cache)
    content = json.loads(cache.read_text())
    content["ranges"]["a"]["low"] = "abc"
    cache.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is not a calibration cache: 'low' is 'abc'"):
        ranges_of(tmp_path, cache)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        ranges_of(tmp_path, tmp_path / "file" / "cache.json")
