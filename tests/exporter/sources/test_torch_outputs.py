"""Names of outputs, for every structure that forward may return."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from exporter.sources.torch_builder import Sample
from exporter.sources.torch_dims import dims_of
from exporter.sources.torch_outputs import named_outputs, output_specs
from passes.errors import UsageError
from targets.base import TensorSpec

X = torch.zeros(2)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    logits: Any
    hidden: Any = None


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (X, ["output"]),
        ((X, X), ["output_0", "output_1"]),
        ([X], ["output_0"]),
        ({"a": X, "b": None}, ["a"]),
        (OrderedDict(a=X, b=(X, X)), ["a", "b_0", "b_1"]),
        (Result(X, [X]), ["logits", "hidden_0"]),
        (Result(X), ["logits"]),
        (Pair(X, {"k": X}), ["left", "right_k"]),
        ((X, {"k": X}), ["output_0", "output_1_k"]),
    ],
)
def test_names(result: Any, names: list[str]) -> None:
    assert [name for name, _ in named_outputs(result)] == names


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ({"a": X, "n": 3}, "output 'n' is a int, not a tensor"),
        ((X, "text"), "output 'output_1' is a str"),
        (None, r"named \(none\)"),
        ({"a": (X,), "a_0": X}, "named a_0, a_0"),
    ],
)
def test_what_is_no_output(result: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        named_outputs(result)


def test_dimensions_are_learnt_from_runs_at_several_sizes() -> None:
    dims = dims_of(Sample({"x": torch.zeros(2, 5)}, (), {}), {"x": {0: "n", 1: "m"}}, ())

    def run(n: int, m: int) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
        return {"n": n, "m": m}, {"y": torch.zeros(n, m, 7, 2 * m, 5)}

    assert output_specs(dims, [run(2, 5), run(3, 6)]) == (TensorSpec("y", "float32", ("n", "m", 7, None, 5)),)
    assert output_specs(dims, [run(2, 5)])[0].shape == (None, None, 7, 10, None)


def test_a_cache_is_told_how_to_leave_it_out() -> None:
    class DynamicCache:
        pass

    with pytest.raises(UsageError, match="is a DynamicCache") as caught:
        named_outputs({"logits": X, "past_key_values": DynamicCache()})
    assert '"use_cache": False' in caught.value.hint
