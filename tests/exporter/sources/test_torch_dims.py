"""Dynamic dimensions: declared, seen in samples, or guessed; and the sizes that are traced and probed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporter.sources.torch_builder import Sample
from exporter.sources.torch_dims import dims_of
from passes.errors import UsageError
from targets.base import TensorSpec


def sample(**shapes: tuple[int, ...]) -> Sample:
    return Sample({name: torch.arange(float(np.prod(shape))).reshape(shape) for name, shape in shapes.items()}, (), {})


def feeds(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def test_declared_dimensions_are_taken_as_they_are() -> None:
    dims = dims_of(sample(x=(1, 4)), {"x": {0: "n"}}, [feeds(x=(3, 9))])
    assert dims.inputs == (TensorSpec("x", "float32", ("n", 4)),)
    assert dims.guessed == frozenset()


def test_sizes_that_vary_together_share_a_name() -> None:
    seen = [feeds(ids=(2, 7), mask=(2, 7), image=(2, 3)), feeds(ids=(4, 5), mask=(4, 5), image=(4, 3))]
    dims = dims_of(sample(ids=(2, 5), mask=(2, 5), image=(2, 3)), None, seen)
    assert [spec.shape for spec in dims.inputs] == [("batch", "sequence"), ("batch", "sequence"), ("batch", 3)]
    assert dims.guessed == frozenset()


def test_a_third_varying_dimension_is_named_after_its_place() -> None:
    dims = dims_of(sample(x=(2, 5, 6)), None, [feeds(x=(3, 6, 9)), feeds(x=(3, 7, 9))])
    assert dims.inputs[0].shape == ("batch", "sequence", "x_2")


def test_a_batch_is_guessed_where_nothing_varies() -> None:
    dims = dims_of(sample(x=(2, 4), y=(2, 5)), None, [feeds(x=(2, 4), y=(2, 5))])
    assert [spec.shape for spec in dims.inputs] == [("batch", 4), ("batch", 5)]
    assert dims.guessed == {"batch"}
    assert [spec.shape for spec in dims.without_guesses().inputs] == [(2, 4), (2, 5)]


def test_no_batch_is_guessed_where_first_sizes_differ() -> None:
    dims = dims_of(sample(x=(2, 4), table=(9, 5)), None, ())
    assert [spec.shape for spec in dims.inputs] == [(2, 4), (9, 5)]
    assert dims.probe_sizes() == ()


def test_one_name_has_one_size() -> None:
    with pytest.raises(UsageError, match="'n' is 2 in one sample input and 3 in 'y'"):
        dims_of(sample(x=(2,), y=(3,)), {"x": {0: "n"}, "y": {0: "n"}}, ())


def test_traced_sizes_are_told_apart_and_never_1() -> None:
    dims = dims_of(sample(x=(1, 2)), {"x": {0: "batch", 1: "length"}}, ())
    assert dims.sizes == {"batch": 3, "length": 2}


def test_resizing_cuts_and_repeats_values() -> None:
    dims = dims_of(sample(x=(2, 3)), {"x": {0: "n", 1: "m"}}, ())
    assert dims.tensors_at({"n": 3, "m": 2})["x"].tolist() == [[0, 1], [3, 4], [0, 1]]


def test_probes_differ_from_what_is_traced() -> None:
    dims = dims_of(sample(x=(2, 8)), {"x": {0: "n", 1: "m"}}, ())
    for sizes in dims.probe_sizes():
        assert all(size != dims.sizes[dim] for dim, size in sizes.items())
    assert any(sizes["n"] == 1 for sizes in dims.probe_sizes())
