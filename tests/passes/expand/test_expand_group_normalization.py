from __future__ import annotations

import numpy as np
import pytest

from passes.capabilities import PORTABLE, Capabilities
from passes.expand.expand_group_normalization import ExpandGroupNormalization
from passes.pipeline import Pipeline
from tests.support.golden import assert_lines, assert_refused, transformed
from tests.support.rewriting import graph_from, operators, random_array

PASS = "expand-group-normalization"
KERNELS = frozenset({"InstanceNormalization", "Reshape", "Mul", "Add", "Shape", "Neg"})
BARE = Capabilities(name="bare", opset_limit=23, kernels=KERNELS)
FIVE = """
    CHECK: [[parted]] = Reshape (x, [[groups]])
    CHECK-NEXT: [[norm]] = InstanceNormalization <epsilon: float = 0.01> ([[parted]], [[ones]], [[zeros]])
    CHECK-NEXT: [[back]] = Reshape ([[norm]], [[shape]])
    CHECK-NEXT: [[scaled]] = Mul ([[back]], [[scale]])
    CHECK-NEXT: y = Add ([[scaled]], [[bias]])
"""


def _text(places: str, *, groups: int = 2, weight: str = "4", kind: str = "float") -> str:
    return f"""g ({kind}[{places}] x, {kind}[{weight}] w, {kind}[{weight}] b) => ({kind}[{places}] y)
        {{ y = GroupNormalization <epsilon = 0.01, num_groups = {groups}> (x, w, b) }}"""


def _weights(length: int = 4) -> dict[str, np.ndarray]:
    return {"w": random_array(length), "b": random_array(length, seed=1)}


@pytest.mark.parametrize("places", ["N,4,5", "N,4,5,6", "N,4,H,6", "2,4,5,6,3"])
@pytest.mark.parametrize("groups", [1, 2])
def test_five_nodes(places: str, groups: int) -> None:
    assert_lines(_text(places, groups=groups), PASS, FIVE, weights=_weights(), capabilities=BARE)


def test_two_axes_that_vary_take_a_shape() -> None:
    after, _ = transformed(_text("N,4,H,W"), PASS, weights=_weights(), capabilities=BARE)
    assert operators(after) == ["Reshape", "InstanceNormalization", "Shape", "Reshape", "Mul", "Add"]


def test_scales_that_vary_are_reshaped() -> None:
    after, _ = transformed(_text("N,4,5,6"), PASS, capabilities=BARE)
    names = ["Reshape", "InstanceNormalization", "Reshape", "Reshape", "Mul", "Reshape", "Add"]
    assert operators(after) == names


@pytest.mark.parametrize(
    ("scale", "bias", "left"), [(1.0, 0.0, []), (1.0, 2.0, ["Add"]), (2.0, 0.0, ["Mul"]), (0.0, 1.0, ["Mul", "Add"])]
)
def test_what_changes_nothing_falls_away(scale: float, bias: float, left: list[str]) -> None:
    weights = {"w": np.full(4, scale, np.float32), "b": np.full(4, bias, np.float32)}
    after, _ = transformed(_text("N,4,5,6"), PASS, weights=weights, capabilities=BARE)
    assert operators(after) == ["Reshape", "InstanceNormalization", "Reshape", *left]


def test_one_channel_a_group_is_an_instance_norm() -> None:
    after, _ = transformed(_text("N,4,H,W", groups=4), PASS, weights=_weights(), capabilities=BARE)
    assert operators(after) == ["InstanceNormalization"]


def test_one_scale_a_group_goes_into_the_norm() -> None:
    model = graph_from(_text("N,4,5,6", weight="2"), opset=18)
    # onnxruntime has no kernel of this deprecated version: the reference is the formula
    after, _ = Pipeline((ExpandGroupNormalization(),)).run(model, context=_context(BARE))
    assert operators(after) == ["Reshape", "InstanceNormalization", "Reshape"]
    feeds = {"x": random_array(2, 4, 5, 6), "w": random_array(2, seed=1), "b": random_array(2, seed=2)}
    parted = feeds["x"].reshape(2, 2, -1)
    plain = (parted - parted.mean(2, keepdims=True)) / np.sqrt(parted.var(2, keepdims=True) + 0.01)
    expected = (plain * feeds["w"][:, None] + feeds["b"][:, None]).reshape(2, 4, 5, 6)
    from passes.execution import run_model

    (actual,) = run_model(after, (feeds,))
    np.testing.assert_allclose(actual["y"], expected, rtol=1e-4, atol=1e-5)


def _context(capabilities: Capabilities):  # type: ignore[no-untyped-def]
    from passes.base import Context

    return Context(capabilities)


@pytest.mark.parametrize(
    "capabilities", [PORTABLE, Capabilities(name="poor", opset_limit=23, kernels=KERNELS - {"InstanceNormalization"})]
)
def test_with_a_kernel_or_without_any_it_stays(capabilities: Capabilities) -> None:
    after, (result,) = transformed(_text("N,4,5,6"), PASS, weights=_weights(), capabilities=capabilities)
    assert operators(after) == ["GroupNormalization"]
    assert not result.applied


@pytest.mark.parametrize(
    ("text", "reason"),
    [(_text("N,4,5", kind="double"), "neither float32 nor float16"), (_text("N,C,5"), "channels of 'x' are not known")],
)
def test_what_cannot_be_expanded_is_refused(text: str, reason: str) -> None:
    feeds = ({"x": random_array(2, 4, 5), "w": random_array(4), "b": random_array(4)},)
    if "double" in text:
        feeds = ({name: array.astype(np.float64) for name, array in feeds[0].items()},)
    assert_refused(text, PASS, reason, capabilities=BARE, feeds=feeds)
