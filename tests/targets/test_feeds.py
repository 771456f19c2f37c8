"""What check_feeds refuses, and that it says all of it at once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from passes.errors import UsageError
from targets.base import TensorSpec
from targets.feeds import check_feeds

SPECS = (
    TensorSpec("input_ids", "int64", ("batch", "sequence")),
    TensorSpec("attention_mask", "int64", ("batch", "sequence")),
    TensorSpec("scale", "float32", (None, 3)),
)


def good(batch: int = 2, sequence: int = 5) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.zeros((batch, sequence), np.int64),
        "attention_mask": np.ones((batch, sequence), np.int64),
        "scale": np.ones((7, 3), np.float32),
    }


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (2, 5), (16, 0)])
def test_takes_any_size_of_named_and_unknown_dimensions(batch: int, sequence: int):
    check_feeds(good(batch, sequence), SPECS)


def test_takes_scalars_and_bfloat16():
    check_feeds({"s": np.float32(1)}, (TensorSpec("s", "float32", ()),))
    check_feeds({"s": np.ones(2, ml_dtypes.bfloat16)}, (TensorSpec("s", "bfloat16", (2,)),))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_id": np.zeros((2, 5), np.int64)}, "'input_id' is not an input; did you mean input_ids?"),
        ({"scale": np.ones((7, 3), np.float64)}, "'scale' has dtype float64, not float32"),
        ({"input_ids": np.zeros((2, 5), np.int32)}, "'input_ids' has dtype int32, not int64"),
        ({"scale": np.ones((7, 4), np.float32)}, "'scale' has size 4 in dimension 1, not 3"),
        ({"scale": np.ones((7, 3), ">f4")}, "'scale' has float32 in the other byte order (>f4)"),
        ({"scale": np.ones(3, np.float32)}, "'scale' has 1 dimensions [3], not 2"),
        ({"scale": [[1.0, 2.0, 3.0]]}, "'scale' is a list, not a numpy array"),
        ({"attention_mask": np.ones((2, 6), np.int64)}, "'attention_mask' has sequence = 6"),
        ({"attention_mask": np.ones((3, 5), np.int64)}, "but 'input_ids' has batch = 2"),
    ],
)
def test_refuses(change: dict[str, np.ndarray], said: str):
    with pytest.raises(UsageError) as refused:
        check_feeds({**good(), **change}, SPECS)
    assert said in refused.value.message
    assert "input_ids: int64[batch, sequence]" in refused.value.hint


def test_refuses_a_missing_input():
    feeds = good()
    del feeds["scale"]
    with pytest.raises(UsageError, match="'scale' is missing"):
        check_feeds(feeds, SPECS)


def test_says_everything_at_once():
    feeds = {"ids": np.zeros(1), "attention_mask": np.ones((2, 5), np.int8), "scale": np.ones((7, 9), np.float32)}
    with pytest.raises(UsageError) as refused:
        check_feeds(feeds, SPECS)
    for part in ("'ids'", "'input_ids' is missing", "int8", "size 9"):
        assert part in refused.value.message
