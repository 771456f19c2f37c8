from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from exporter.evaluation.references import ReferenceChanged, ReferenceFailed, record_references
from passes.errors import ExitCode, UsageError
from targets.base import TensorSpec

SAMPLES = [
    {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "flag": np.array(True)},
    {"x": np.ones((1, 3), np.float32), "flag": np.array(False)},
]


def original(feeds):
    return {
        "y": feeds["x"].astype(ml_dtypes.bfloat16),
        "n": np.int64(3) * np.ones((), np.int64),
        "empty": np.empty((0, 4), np.float16),
        "fortran": np.asfortranarray(feeds["x"]),
    }


def test_what_was_recorded_is_read_back_as_often_as_wanted(tmp_path):
    calls = []

    def counted(feeds):
        calls.append(feeds)
        return original(feeds)

    references = record_references(iter(SAMPLES), counted, tmp_path / "work")
    assert len(references) == 2
    for _ in range(3):
        for (feeds, outputs), sample in zip(references, SAMPLES, strict=True):
            for expected, actual in ((sample, feeds), (original(sample), outputs)):
                assert list(actual) == list(expected)
                for name, value in expected.items():
                    assert actual[name].dtype == value.dtype
                    assert actual[name].shape == value.shape
                    np.testing.assert_array_equal(actual[name], value)
                    assert actual[name].flags.aligned
                    assert actual[name].flags.writeable
    assert len(calls) == 3  # the first sample twice, to see whether the original is repeatable
    assert references.notes == ()
    assert references.size_bytes == sum(path.stat().st_size for path, _ in references.files)


def test_a_changed_or_missing_file_is_noticed(tmp_path):
    references = record_references(SAMPLES, original, tmp_path)
    path, _ = references.files[1]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReferenceChanged, match="changed"):
        list(references)
    path.unlink()
    with pytest.raises(ReferenceChanged, match="cannot be read"):
        list(references)


def test_an_original_that_raises_is_told_with_the_sample(tmp_path):
    def broken(feeds):
        if len(feeds["x"]) == 1:
            raise RuntimeError("shapes don't match")
        return original(feeds)

    with pytest.raises(ReferenceFailed, match=r"sample 1 \(flag \[\], x \[1, 3\]\): RuntimeError: shapes") as caught:
        record_references(SAMPLES, broken, tmp_path)
    assert caught.value.exit_code is ExitCode.USAGE


def test_outputs_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'y' holds Python objects"):
        record_references(SAMPLES, lambda feeds: {"y": np.array([None])}, tmp_path)


def test_an_original_that_is_not_repeatable_is_noted(tmp_path):
    rng = np.random.default_rng(0)

    def dropout(feeds):
        return {"y": feeds["x"] * rng.integers(0, 2, size=feeds["x"].shape).astype(np.float32), "x": feeds["x"]}

    (note,) = record_references(SAMPLES, dropout, tmp_path).notes
    assert "output 'y'" in note
    assert "training mode" in note


def test_rounding_is_repeatable_and_another_form_is_not(tmp_path):
    scale = iter([1.0, 1.0 + 1e-7, 1.0])
    rounding = record_references(SAMPLES, lambda feeds: {"y": feeds["x"] * np.float32(next(scale))}, tmp_path / "a")
    assert rounding.notes == ()
    sizes = iter([1, 2, 3])
    (note,) = record_references(SAMPLES, lambda feeds: {"y": np.ones(next(sizes))}, tmp_path / "b").notes
    assert "changes its form" in note


def test_a_further_sample_that_the_original_does_not_take_is_left_out_and_noted(tmp_path):
    def picky(feeds):
        if len(feeds["x"]) == 3:
            raise ValueError("not three")
        return original(feeds)

    further = [{"x": np.ones((size, 3), np.float32), "flag": np.array(True)} for size in (3, 4)]
    references = record_references(SAMPLES, picky, tmp_path, further=further)
    assert (len(references), references.further) == (3, 1)
    assert references.notes == ("Not verified at flag [], x [3, 3]: the original fails there: ValueError: not three",)
    with pytest.raises(ReferenceFailed):
        record_references([*SAMPLES, further[0]], picky, tmp_path / "own")


def test_only_our_own_samples_of_other_sizes_are_left_out_for_fixed_inputs(tmp_path):
    further = [{"x": np.ones((size, 3), np.float32), "flag": np.array(True)} for size in (2, 4)]
    references = record_references(SAMPLES, original, tmp_path, further=further)
    fixed = references.of_fixed_sizes([TensorSpec("x", "float32", (2, 3)), TensorSpec("flag", "bool", ())])
    assert [len(feeds["x"]) for feeds, _ in fixed] == [2, 1, 2]  # the user's sample of one row stays, and fails
    assert fixed.further == 1
    assert len(references.of_fixed_sizes([TensorSpec("x", "float32", ("n", 3))])) == len(references)
