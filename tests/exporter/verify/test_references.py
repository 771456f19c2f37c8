from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from exporter.verify.references import ReferenceChanged, ReferenceFailed, record_references
from passes.errors import ExitCode, UsageError

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
    assert len(calls) == 2
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
