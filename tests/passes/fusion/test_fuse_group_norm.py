from __future__ import annotations

import numpy as np
import pytest

from passes.base import Context
from passes.catalogue import default_pipeline
from passes.fusion.fuse_group_norm import FuseGroupNorm
from passes.pipeline import Pipeline
from targets.base import BuildOptions
from targets.registry import get_target
from tests.support.golden import assert_refused, assert_rewritten
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons

GROUPS = "fuse-group-norm{groups=true}"
PASS = "fuse-group-norm{groups=true},fuse-layer-norm,eliminate-dead-code"
CONSTANTS = """
    groups = Constant <value = int64[3] {0, 2, -1}> ()
    back = Constant <value = int64[4] {0, 4, 5, 6}> ()
    ones = Constant <value = float[2] {1.0, 1.0}> ()
    zeros = Constant <value = float[2] {0.0, 0.0}> ()
    two = Constant <value = float {2.0}> ()
    eps = Constant <value = float {0.001}> ()
"""
INSTANCE = "r = Reshape (x, groups) i = InstanceNormalization <epsilon = 0.001> (r, ones, zeros) n = Reshape (i, back) "
ARITHMETIC = """m = ReduceMean (r, axes) d = Sub (r, m) q = Pow (d, two) v = ReduceMean (q, axes) e = Add (v, eps)
    t = Sqrt (e) i = Div (d, t) """
IN_GROUPS = (
    f"axes = Constant <value = int64[1] {{2}}> () r = Reshape (x, groups) {ARITHMETIC} n = Reshape (i, back) ",
    f"""axes = Constant <value = int64[3] {{-3, 3, 4}}> () five = Constant <value = int64[5] {{0, 2, 2, 5, 6}}> ()
    r = Reshape (x, five) {ARITHMETIC} n = Reshape (i, back) """,
)
PLACES = "axes = Constant <value = int64[2] {2, 3}> () r = Identity (x) " + ARITHMETIC.replace("i = ", "n = ")
AFFINE = "s = Mul (n, w) y = Add (b, s)"
GROUP = "GroupNormalization <epsilon: float = 0.001, num_groups: int = 2>"
NORM = "InstanceNormalization <epsilon: float = 0.001>"


def _text(body: str, *, x: str = "float[N,4,5,6]", y: str = "float[N,4,5,6] y", w: str = "4,1,1") -> str:
    return f"g ({x} x, float[{w}] w, float[{w}] b) => ({y}) {{ {CONSTANTS} {body} }}"


def _weights(*shape: int) -> dict[str, np.ndarray]:
    return {"w": np.full(shape, 0.5, np.float32), "b": np.full(shape, 0.25, np.float32)}


def _numbers(number: float) -> str:
    return f"float[4] {{{', '.join([str(number)] * 4)}}}"


@pytest.mark.parametrize("core", [INSTANCE, *IN_GROUPS])
@pytest.mark.parametrize(
    ("rest", "scale", "bias", "left"),
    [
        (AFFINE, 0.5, 0.25, ""),
        ("y = Mul (w, n)", 0.5, 0.0, ""),
        ("y = Add (n, b)", 1.0, 0.25, ""),
        ("y = Neg (n)", 1.0, 0.0, "y = Neg (n)"),
    ],
)
def test_a_norm_between_reshapes_is_a_group_norm(core: str, rest: str, scale: float, bias: float, left: str) -> None:
    name = "n" if left else "y"
    expected = f"""
        {name}_scale = {_numbers(scale)}
        {name}_bias = {_numbers(bias)}
        {name} = {GROUP} (x, {name}_scale, {name}_bias)
        {left}
    """
    weights = _weights(4, 1, 1)
    used = {"w", "b"} & set(rest.replace("(", " ").replace(")", " ").replace(",", " ").split())
    text = _text(core + rest)
    for name in {"w", "b"} - used:
        text = text.replace(f", float[4,1,1] {name}", "")
    assert_rewritten(text, PASS, expected, weights={name: weights[name] for name in used})


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_one_channel_a_group_is_an_instance_norm(shape: tuple[int, ...]) -> None:
    body = INSTANCE.replace("groups", "four").replace("ones", "w_ones").replace("zeros", "b_zeros") + AFFINE
    constants = """four = Constant <value = int64[3] {0, 4, -1}> ()
        w_ones = Constant <value = float[4] {1.0, 1.0, 1.0, 1.0}> ()
        b_zeros = Constant <value = float[4] {0.0, 0.0, 0.0, 0.0}> () """
    expected = f"""
        y_scale = {_numbers(0.5)}
        y_bias = {_numbers(0.25)}
        y = {NORM} (x, y_scale, y_bias)
    """
    text = _text(constants + body, w=",".join(map(str, shape)))
    assert_rewritten(text, PASS, expected, weights=_weights(*shape))


@pytest.mark.parametrize("places", ["5,6", "H,W"])
def test_a_norm_over_all_places_is_an_instance_norm(places: str) -> None:
    expected = f"""
        y_scale = {_numbers(0.5)}
        y_bias = {_numbers(0.25)}
        r = Identity (x)
        y = {NORM} (r, y_scale, y_bias)
    """
    kind = f"float[N,4,{places}]"
    assert_rewritten(_text(PLACES + AFFINE, x=kind, y=f"{kind} y"), PASS, expected, weights=_weights(4, 1, 1))


def _ops(body: str, weight: tuple[int, ...], kind: str, opset: int = 23) -> list[str]:
    text = _text(body, x=kind, y=f"{kind} y", w=",".join(map(str, weight)))
    model = add_weights(graph_from(text, opset=opset), w=random_array(*weight), b=random_array(*weight, seed=1))
    steps = Pipeline((FuseGroupNorm(groups=True),))
    return [op for op in operators(steps.run(model)[0]) if op not in ("Constant", "Identity")]


SEQUENCE = PLACES.replace("int64[2] {2, 3}", "int64[1] {2}")


@pytest.mark.parametrize(
    ("weight", "left"),
    [((4, 1), ["InstanceNormalization"]), ((6,), None)],
)
def test_a_sequence_is_an_instance_norm_only_by_its_scale(weight: tuple[int, ...], left: list[str] | None) -> None:
    found = _ops(SEQUENCE + AFFINE, weight, "float[N,4,6]")
    assert found == left if left else "ReduceMean" in found


def test_a_scale_of_places_leaves_the_norm_to_layer_normalization() -> None:
    assert "ReduceMean" in _ops(PLACES + AFFINE, (5, 6), "float[N,4,5,6]")


def test_places_of_two_symbolic_axes_return_by_their_shape() -> None:
    body = "shape = Shape (x) " + INSTANCE.replace("back", "shape") + AFFINE
    assert _ops(body, (4, 1, 1), "float[N,4,H,W]")[-1] == "GroupNormalization"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (INSTANCE.replace("(r, ones, zeros)", "(r, two_ones, zeros)"), "has a scale or bias of its own"),
        (INSTANCE.replace("(r, ones, zeros)", "(r, ones, ones)"), "has a scale or bias of its own"),
        (INSTANCE.replace("groups", "merged").replace("back", "all"), "does not part the channels"),
        (INSTANCE.replace("back", "other"), "does not return to the shape"),
    ],
)
def test_near_matches_are_refused(body: str, reason: str) -> None:
    constants = """merged = Constant <value = int64[3] {-1, 2, 30}> ()
        all = Constant <value = int64[4] {-1, 4, 5, 6}> () other = Constant <value = int64[4] {0, 4, 6, 5}> ()
        two_ones = Constant <value = float[2] {1.0, 2.0}> () """
    y = "float[N,4,6,5] y" if "other" in body else "float[N,4,5,6] y"
    text = _text(constants + body + "y = Neg (n)", y=y).replace(", float[4,1,1] w, float[4,1,1] b", "")
    assert_refused(text, GROUPS, reason)


def test_an_inner_value_with_another_reader_is_refused() -> None:
    text = _text(INSTANCE + "y = Neg (n) z = Neg (i)", y="float[N,4,5,6] y, float[N,2,L] z")
    text = text.replace(", float[4,1,1] w, float[4,1,1] b", "")
    assert_refused(text, GROUPS, "output 'i' also feeds z")


def test_an_epsilon_that_adds_an_axis_is_refused() -> None:
    text = _text(PLACES + "y = Neg (n)", y="float[1,N,4,5,6] y").replace("float {0.001}", "float[1,1,1,1,1] {0.001}")
    assert_refused(text.replace(", float[4,1,1] w, float[4,1,1] b", ""), GROUPS, "has rank 5, 'r' 4")


def test_channels_of_symbolic_number_are_refused() -> None:
    text = _text(INSTANCE.replace("back", "shape") + "y = Neg (n)", x="float[N,C,5,6]", y="float[N,C,5,6] y")
    text = text.replace(", float[4,1,1] w, float[4,1,1] b", "").replace("r = Resh", "shape = Shape (x) r = Resh")
    feeds = ({"x": random_array(2, 4, 5, 6)},)
    assert_refused(text, GROUPS, "the number of channels or groups is not fixed", feeds=feeds)


def test_double_is_refused() -> None:
    text = _text(PLACES + "y = Neg (n)", x="double[N,4,5,6]", y="double[N,4,5,6] y")
    text = text.replace(", float[4,1,1] w, float[4,1,1] b", "").replace("value = float {", "value = double {")
    assert_refused(text, GROUPS, "neither float32 nor float16")


def test_an_older_opset_is_refused() -> None:
    text = _text(INSTANCE + "y = Neg (n)").replace(", float[4,1,1] w, float[4,1,1] b", "")
    _, (result,) = Pipeline((FuseGroupNorm(groups=True),)).run(graph_from(text, opset=17))
    assert not result.applied
    assert reasons(result) == ["GroupNormalization with a scale a channel needs opset 21, the model has 17"]


@pytest.mark.parametrize(
    "wrong", [("Sub (r, m)", "Sub (m, r)"), ("v = ReduceMean (q, axes)", "v = ReduceMean (q, last)")]
)
def test_another_computation_stays(wrong: tuple[str, str]) -> None:
    body = "last = Constant <value = int64[1] {3}> () " + PLACES.replace(*wrong) + AFFINE
    assert "InstanceNormalization" not in _ops(body, (4, 1, 1), "float[N,4,5,6]")


def test_by_default_no_group_norm_is_made() -> None:
    text = _text(INSTANCE + AFFINE)
    assert_refused(text, "fuse-group-norm", "made for targets with a kernel", weights=_weights(4, 1, 1))
    after, _ = default_pipeline().run(add_weights(graph_from(text), **_weights(4, 1, 1)))
    assert "GroupNormalization" not in operators(after)


@pytest.mark.parametrize("core", [INSTANCE, *IN_GROUPS])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt", "xla"])
def test_targets_with_a_kernel_get_it_after_the_default_pipeline(target: str, core: str) -> None:
    model = add_weights(graph_from(_text(core + AFFINE)), **_weights(4, 1, 1))
    chosen, options = get_target(target), BuildOptions()
    context = Context(chosen.capabilities(options))
    after, _ = (default_pipeline() + chosen.pipeline(options)).run(model, context=context)
    assert ("GroupNormalization" in operators(after)) == (target != "onnxruntime")
