"""What a builder function may return, and what each wrong return is told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from exporter.sources.torch_builder import InputName, built_from, declared_dims, sample_from
from passes.errors import UsageError


class Scale(nn.Module):
    def forward(self, x: torch.Tensor, factor: float = 2.0, *, bias: torch.Tensor | None = None) -> torch.Tensor:
        return x * factor if bias is None else x * factor + bias


class Sum(nn.Module):
    def forward(self, *parts: torch.Tensor) -> torch.Tensor:
        return torch.stack(parts).sum(0)


X = torch.ones(2, 4)


def test_a_module_alone_is_put_in_evaluation_mode() -> None:
    built = built_from(Scale().train(), location="m.py:f")
    assert not built.module.training
    assert built.sample is None


@pytest.mark.parametrize("given", [X, (X,), [X], {"x": X}])
def test_forms_of_sample_inputs(given: Any) -> None:
    built = built_from((Scale(), given), location="m.py:f")
    assert built.sample is not None
    assert list(built.sample.tensors) == ["x"]
    args, kwargs = built.sample.call({"x": X + 1})
    assert torch.equal(built.module(*args, **kwargs), 2 * X + 2)


def test_constants_stay_in_the_call() -> None:
    sample = built_from((Scale(), {"x": X, "factor": 5.0, "bias": None}), location="m.py:f").sample
    assert sample is not None
    assert dict(sample.keywords) == {"x": InputName("x"), "factor": 5.0, "bias": None}


def test_variable_positional_inputs_are_numbered() -> None:
    sample = built_from((Sum(), (X, X)), location="m.py:f").sample
    assert sample is not None
    assert list(sample.tensors) == ["parts_0", "parts_1"]


def test_sample_inputs_from_arrays() -> None:
    built = built_from(Scale(), location="m.py:f")
    sample = sample_from(built, {"x": np.ones((2, 4), np.float32)}, location="m.py:f")
    assert sample.tensors["x"].dtype is torch.float32


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"weights": 1}, r"returned \(dict\), which is no torch module"),
        ((X, Scale()), "no torch module"),
        ((Scale(), X, {}, 1), "no torch module"),
        ((Scale(), 3), "returned a int as its sample inputs"),
        ((Scale(), {"y": X}), "no parameter 'y'"),
        ((Scale(), (X, 1.0, X)), "returned 3 sample inputs; forward takes 2: x, factor"),
        ((Scale(), ([X],)), "sample input 'x' is a list"),
        ((Scale(), (1.0,)), "without a tensor"),
    ],
)
def test_wrong_returns(returned: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        built_from(returned, location="m.py:f")
    assert "m.py:f" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "dynamic",
    [
        {"x": {0: "n"}},
        {"x": {-2: "n"}},
        ({0: "n"},),
        {"x": ("n", None)},
        {"x": {0: torch.export.Dim("n"), 1: 4}},
    ],
)
def test_forms_of_dynamic_shapes(dynamic: Any) -> None:
    built = built_from((Scale(), X), location="m.py:f")
    assert built.sample is not None
    assert declared_dims(dynamic, built.sample, location="m.py:f") == {"x": {0: "n"}}


def test_hints_are_named_after_their_place() -> None:
    built = built_from((Scale(), X), location="m.py:f")
    assert built.sample is not None
    hints = {"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.STATIC}}
    assert declared_dims(hints, built.sample, location="m.py:f") == {"x": {0: "x_0"}}


@pytest.mark.parametrize(
    ("dynamic", "said"),
    [
        ({"y": {0: "n"}}, "'y', which is no input"),
        ({"x": {2: "n"}}, "axis 2 of 'x' dynamic; it has 2 axes"),
        ({"x": {"0": "n"}}, "axis '0' of 'x'"),
        (({0: "n"}, {0: "n"}), "dynamic shapes for 2 inputs of 1"),
        ("batch", "returned a str as its dynamic shapes"),
    ],
)
def test_wrong_dynamic_shapes(dynamic: Any, said: str) -> None:
    built = built_from((Scale(), X), location="m.py:f")
    assert built.sample is not None
    with pytest.raises(UsageError, match=said):
        declared_dims(dynamic, built.sample, location="m.py:f")
