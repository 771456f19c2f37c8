"""Samples: every form, streaming, casts, each refusal, and the sizes that they show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.sample_fit import fitted
from exporter.samples import (
    dims_from_samples,
    generated_feeds,
    load_samples,
    missing_calibration_error,
    samples_from_example,
)
from passes.errors import ExitCode, UsageError
from targets.base import DimRange, TensorSpec

IDS = TensorSpec("ids", "int64", ("batch", "length"))
SCALE = TensorSpec("scale", "float32", ("batch", 3))
INPUTS = (IDS, SCALE)


def sample(batch: int = 2, length: int = 5, **changed: Any) -> dict[str, Any]:
    feeds: dict[str, Any] = {"ids": np.ones((batch, length), np.int64), "scale": np.ones((batch, 3), np.float32)}
    return feeds | changed


def error_of(feeds: dict[str, Any]) -> UsageError:
    with pytest.raises(UsageError) as caught:
        fitted(feeds, INPUTS, label="Sample 4")
    assert caught.value.message.startswith("Sample 4")
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value


def test_one_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", **sample())
    samples = load_samples(str(tmp_path / "inputs.npz"), INPUTS)
    assert len(samples) == 1
    assert [list(feeds) for feeds in samples] == [["ids", "scale"]]


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for name, batch in (("b.npz", 2), ("a.npz", 1), ("c.npz", 3)):
        np.savez(tmp_path / name, **sample(batch))
    (tmp_path / "notes.txt").write_text("not a sample")
    samples = load_samples(str(tmp_path), INPUTS)
    assert len(samples) == 3
    assert [feeds["ids"].shape[0] for feeds in samples] == [1, 2, 3]
    assert [feeds["ids"].shape[0] for feeds in samples] == [1, 2, 3]  # again


def test_a_function_is_run_anew_and_lazily(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text(
        "import numpy as np\n"
        "made = []\n"
        "def batches():\n"
        "    for i in range(1000):\n"
        "        made.append(i)\n"
        "        yield {'ids': np.full((1, 4), i), 'scale': np.ones((1, 3), 'float32')}\n"
        "def count():\n"
        "    return len(made)\n"
    )
    from exporter.user_code import load_function

    samples = load_samples(f"{path}:batches", INPUTS)
    count = load_function(f"{path}:count")
    assert count() == 0
    assert next(iter(samples))["ids"][0, 0] == 0
    assert count() == 1
    assert len(samples) == 1000


def test_a_function_that_returns_one_sample_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text(
        "import torch\n"
        "def one():\n    return {'ids': [[1, 2]], 'scale': torch.ones(1, 3)}\n"
        "def several():\n    return [one(), one()]\n"
    )
    assert len(list(load_samples(f"{path}:one", INPUTS))) == 1
    assert [feeds["scale"].dtype for feeds in load_samples(f"{path}:several", INPUTS)] == [np.float32] * 2


def test_a_source_s_own_example() -> None:
    samples = samples_from_example(sample())
    assert len(samples) == 1
    assert [list(feeds) for feeds in samples.fitting(INPUTS)] == [["ids", "scale"]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return 3", "returned a int"),
        ("yield 3", "yielded a int as sample 0"),
        ("raise ValueError('disk gone')\n    yield", "raised ValueError: disk gone"),
        ("return []", "holds no samples"),
        ("return\n    yield", "holds no samples"),
    ],
)
def test_functions_that_give_no_samples(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "data.py"
    path.write_text(f"def batches():\n    {body}\n")
    with pytest.raises(UsageError, match=said):
        list(load_samples(f"{path}:batches", INPUTS))


def test_places_without_samples(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("1")
    for place, said in (("absent.npz", "no samples at"), ("empty", "holds no .npz"), ("x.csv", "not a form")):
        with pytest.raises(UsageError, match=said) as caught:
            load_samples(str(tmp_path / place), INPUTS)
        assert "inputs.npz" in caught.value.hint


def test_pickles_are_never_read(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    np.savez(tmp_path / "inputs.npz", ids=np.array([Trap()], dtype=object))
    with pytest.raises(UsageError, match="cannot be read"):
        list(load_samples(str(tmp_path / "inputs.npz"), INPUTS))
    assert not (tmp_path / "sprung").exists()


def test_a_truncated_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", **sample())
    whole = (tmp_path / "inputs.npz").read_bytes()
    (tmp_path / "inputs.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cannot be read"):
        list(load_samples(str(tmp_path / "inputs.npz"), INPUTS))


def test_the_file_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **sample())
    np.savez(tmp_path / "b.npz", ids=np.ones((1, 1), np.int64))
    with pytest.raises(UsageError, match=r"b\.npz has no input 'scale'"):
        list(load_samples(str(tmp_path), INPUTS))


def test_wrong_names() -> None:
    feeds = sample()
    feeds["id"] = feeds.pop("ids")
    error = error_of(feeds)
    assert "has no input 'ids'" in error.message
    assert "has 'id', which is no input (meant 'ids'?)" in error.message
    assert "scale: float32[batch, 3]" in error.hint


def test_wrong_rank() -> None:
    error = error_of(sample(ids=np.ones(5, np.int64)))
    assert "has shape [5]; expected ids: int64[batch, length]" in error.message
    assert "batch dimension missing" in error.hint


def test_wrong_fixed_dimension() -> None:
    error = error_of(sample(scale=np.ones((2, 4), np.float32)))
    assert "input 'scale' has shape [2, 4]; expected scale: float32[batch, 3]" in error.message


def test_one_name_two_sizes() -> None:
    error = error_of(sample(scale=np.ones((3, 3), np.float32)))
    assert "'batch' is 2 in 'ids' and 3 in 'scale'" in error.message


def test_empty_arrays() -> None:
    assert "is empty" in error_of(sample(length=0)).message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite(value: float) -> None:
    scale = np.ones((2, 3), np.float32)
    scale[1, 2] = value
    assert "NaN or infinite" in error_of(sample(scale=scale)).message
    assert fitted(sample(scale=scale), INPUTS, label="", finite=False)["scale"] is scale


def test_values_lost_to_infinity_by_a_cast() -> None:
    assert "NaN or infinite" in error_of(sample(scale=np.full((2, 3), 1e300))).message


def test_safe_casts_are_made() -> None:
    given = sample(ids=np.ones((2, 5), np.int32), scale=np.ones((2, 3), np.float64))
    feeds = fitted(given, INPUTS, label="")
    assert (feeds["ids"].dtype, feeds["scale"].dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("dtype", [">f4", ">f8"])
def test_the_other_byte_order_is_turned_round(dtype: str) -> None:
    feeds = fitted(sample(scale=np.full((2, 3), 1.5, dtype)), INPUTS, label="")
    assert feeds["scale"].dtype.isnative
    assert feeds["scale"].tobytes() == np.full((2, 3), 1.5, np.float32).tobytes()


def test_a_bare_array_under_an_npz_name_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "inputs.npz").open("wb") as stream:
        np.save(stream, np.ones((2, 5), np.int64))
    with pytest.raises(UsageError, match="one bare array"):
        list(load_samples(str(tmp_path / "inputs.npz"), INPUTS))


@pytest.mark.parametrize(
    "array", [np.ones((2, 5), np.float32), np.array([["a"] * 5] * 2), np.ones((2, 5), np.complex64)]
)
def test_unsafe_casts_are_refused(array: Any) -> None:
    error = error_of(sample(ids=array))
    assert "the model takes int64" in error.message


def test_integers_that_do_not_fit_are_refused() -> None:
    spec = TensorSpec("n", "int32", (1,))
    assert fitted({"n": np.array([7])}, (spec,), label="")["n"].dtype == np.int32
    with pytest.raises(UsageError, match="takes int32"):
        fitted({"n": np.array([2**40])}, (spec,), label="")


def test_ranges_of_named_dimensions() -> None:
    seen = [sample(2, 5), sample(8, 9), sample(8, 5), sample(1, 7)]
    assert dims_from_samples(INPUTS, seen) == {"batch": DimRange(1, 8, 8), "length": DimRange(5, 5, 9)}


def test_missing_calibration_says_how() -> None:
    error = missing_calibration_error()
    assert error.exit_code is ExitCode.USAGE
    for word in ("--calibration", "inputs.npz", "file.py:function"):
        assert word in str(error)


def test_generated_inputs_are_repeatable_and_legal() -> None:
    feeds = generated_feeds(INPUTS, {"batch": 4, "length": 6})
    assert feeds["ids"].shape == (4, 6)
    assert (feeds["ids"] == 1).all()
    assert np.array_equal(feeds["scale"], generated_feeds(INPUTS, {"batch": 4, "length": 6})["scale"])
    with pytest.raises(UsageError, match="size of 'length'"):
        generated_feeds(INPUTS, {"batch": 4})


@given(st.lists(st.integers(1, 3), max_size=3), st.lists(st.integers(1, 3), max_size=3))
def test_a_shape_fits_itself_only(expected: list[int], given_shape: list[int]) -> None:
    spec = TensorSpec("x", "float32", tuple(expected))
    array = np.zeros(given_shape, np.float32)
    if expected == given_shape:
        assert fitted({"x": array}, (spec,), label="")["x"] is array
    else:
        with pytest.raises(UsageError):
            fitted({"x": array}, (spec,), label="")
