from __future__ import annotations

import numpy as np
import pytest

from exporter.evaluation.batches import batch_dimension, vary_batches
from targets.base import DimRange, TensorSpec

TEXT = (TensorSpec("ids", "int64", ("batch", "seq")), TensorSpec("mask", "int64", ("batch", "seq")))


def text(size, length, start=0):
    ids = np.arange(size * length).reshape(size, length) + start
    return {"ids": ids, "mask": np.ones_like(ids)}


def sizes(varied):
    return sorted((len(sample["ids"]), sample["ids"].shape[1]) for sample in varied)


def test_a_batch_is_split_and_cut_to_sizes_that_were_not_there():
    assert sizes(vary_batches([text(8, 5)], TEXT)) == [(1, 5), (3, 5), (7, 5)]


def test_samples_of_one_length_are_put_together_and_of_different_ones_are_not():
    varied = vary_batches([text(2, 5), text(2, 5, 100), text(2, 9)], TEXT)
    assert sizes(varied) == [(1, 5), (1, 9), (3, 5), (4, 5)]
    four = next(sample for sample in varied if len(sample["ids"]) == 4)
    np.testing.assert_array_equal(four["ids"], np.concatenate([text(2, 5)["ids"], text(2, 5, 100)["ids"]]))


def test_traced_sizes_and_sizes_out_of_range_are_left_out():
    assert sizes(vary_batches([text(8, 5)], TEXT, traced=(1, 3))) == [(5, 5), (7, 5)]
    assert sizes(vary_batches([text(8, 5)], TEXT, dims={"batch": DimRange(2, 4, 4)})) == [(3, 5)]


def test_the_greatest_batch_stays_affordable():
    varied = vary_batches([text(2, 5, start) for start in range(30)], TEXT)
    assert max(len(sample["ids"]) for sample in varied) == 4
    assert max(len(sample["ids"]) for sample in vary_batches([text(1, 5, start) for start in range(30)], TEXT)) == 4


def test_the_shortest_the_longest_and_the_most_frequent_lengths_are_varied():
    samples = [text(2, length) for length in (3, 4, 5, 6)] + [text(2, 5, 50)]
    assert {length for _, length in sizes(vary_batches(samples, TEXT))} == {3, 5, 6}


def test_a_batch_on_another_axis_is_followed():
    inputs = (TensorSpec("x", "float32", ("batch", 4)), TensorSpec("state", "float32", (2, "batch", 3)))
    sample = {"x": np.arange(12.0).reshape(3, 4), "state": np.arange(18.0).reshape(2, 3, 3)}
    one = vary_batches([sample], inputs)[0]
    np.testing.assert_array_equal(one["x"], sample["x"][:1])
    np.testing.assert_array_equal(one["state"], sample["state"][:, :1])


def test_inputs_without_a_batch_keep_their_content_apart():
    inputs = (TensorSpec("x", "float32", ("batch", 4)), TensorSpec("scale", "float32", ()))
    samples = [{"x": np.ones((2, 4)) * value, "scale": np.array(value)} for value in (1.0, 2.0)]
    for varied in vary_batches(samples, inputs):
        assert np.all(varied["x"] == varied["scale"])


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([("batch", "seq"), ("batch", 3)], "batch"),
        ([("T", "batch"), ("batch", 3)], "batch"),
        ([(1, "seq")], None),
        ([(None, 3)], None),
        ([()], None),
        ([("s0", 3), ("s0", 4), ("s1", 2)], "s0"),
    ],
)
def test_the_batch_dimension_is_the_named_first_one_that_most_inputs_have(shapes, expected):
    assert batch_dimension([TensorSpec(str(i), "float32", shape) for i, shape in enumerate(shapes)]) == expected


def test_a_fixed_batch_varies_nothing():
    assert vary_batches([text(8, 5)], (TensorSpec("ids", "int64", (8, 5)), TensorSpec("mask", "int64", (8, 5)))) == ()
