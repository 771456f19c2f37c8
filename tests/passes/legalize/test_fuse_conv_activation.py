"""FuseConvActivation: the activations and residuals that it joins to a convolution, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.legalize.fuse_conv_activation import FuseConvActivation
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import graph_from, reasons

LOWEST, HIGHEST = float(np.finfo(np.float32).min), float(np.finfo(np.float32).max)
BOUNDS = "lo = Constant <value_float = -0.5> () hi = Constant <value_float = 0.7> ()"
CONV = "c = Conv <pads = [1, 1, 1, 1]> (x, w, b)"


def model(body: str, *, y: str = "float[B,4,5,6] y", r: str = "B,4,5,6", dtype: str = "float") -> ir.Model:
    inputs = f"{dtype}[B,4,5,6] x, {dtype}[{r}] r, {dtype}[4,4,3,3] w, {dtype}[4] b, {dtype} m"
    return graph_from(f"g ({inputs}) => ({y}) {{ {body} }}")


def without_constants(after: ir.Model) -> list[str]:
    return [text for text in forms(after) if not text.startswith("Constant")]


@pytest.mark.parametrize(
    ("activation", "name", "parameters"),
    [
        ("Relu (s)", "Relu", None),
        ("Sigmoid (s)", "Sigmoid", None),
        ("Tanh (s)", "Tanh", None),
        ("HardSwish (s)", "HardSwish", None),
        ("LeakyRelu (s)", "LeakyRelu", [0.01]),
        ("LeakyRelu <alpha = 0.3> (s)", "LeakyRelu", [0.3]),
        ("HardSigmoid (s)", "HardSigmoid", [0.2, 0.5]),
        ("HardSigmoid <alpha = 0.3, beta = 0.4> (s)", "HardSigmoid", [0.3, 0.4]),
        ("Clip (s, lo, hi)", "Clip", [-0.5, 0.7]),
        ("Clip (s, lo)", "Clip", [-0.5, HIGHEST]),
        ("Clip (s, , hi)", "Clip", [LOWEST, 0.7]),
    ],
)
@pytest.mark.parametrize("residual", [False, True])
def test_activations(activation: str, name: str, parameters: list[float] | None, residual: bool) -> None:
    inner = f"{CONV} s = Add (r, c)" if residual else CONV.replace("c =", "s =")
    after, result = legalise(model(f"{BOUNDS} {inner} y = {activation}"), FuseConvActivation())
    assert without_constants(after) == ["FusedConv(x, w, b, r)" if residual else "FusedConv(x, w, b)"]
    found = attributes(after, "FusedConv")
    assert found["activation"] == name
    assert list(found["pads"]) == [1, 1, 1, 1]
    assert list(found.get("activation_params", ())) == pytest.approx(parameters or [])
    assert len(result.applied) == 1


def test_a_residual_alone_is_joined() -> None:
    after, _ = legalise(model(f"{CONV} y = Add (c, r)"), FuseConvActivation())
    assert forms(after) == ["FusedConv(x, w, b, r)"]
    assert "activation" not in attributes(after, "FusedConv")


def test_a_convolution_without_bias_leaves_its_place_empty() -> None:
    after, _ = legalise(
        model("c = Conv <pads = [1, 1, 1, 1]> (x, w) s = Add (c, r) y = Relu (s)"), FuseConvActivation()
    )
    assert forms(after) == ["FusedConv(x, w, _, r)"]


def test_of_two_convolutions_one_takes_the_other() -> None:
    body = f"{CONV} d = Conv <pads = [1, 1, 1, 1]> (r, w) s = Add (c, d) y = Relu (s)"
    after, _ = legalise(model(body), FuseConvActivation())
    assert sorted(node.op_type for node in after.graph) == ["Conv", "FusedConv"]


@pytest.mark.parametrize(("x", "w"), [("B,4,5", "4,4,3"), ("B,4,3,4,5", "4,4,3,3,3"), ("B,4,5,6", "4,1,3,3")])
def test_other_ranks_and_groups(x: str, w: str) -> None:
    rank, group = len(w.split(",")) - 2, 4 // int(w.split(",")[1])
    pads = ", ".join(["1"] * (2 * rank))
    built = graph_from(
        f"""g (float[{x}] x, float[{w}] w) => (float[{x}] y) {{
        c = Conv <pads = [{pads}], group = {group}> (x, w) s = Add (c, x) y = Relu (s) }}"""
    )
    after, _ = legalise(built, FuseConvActivation())
    assert forms(after) == ["FusedConv(x, w, _, x)"]


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (
            model(f"{CONV} y = Relu (c) n = Neg (c)", y="float[B,4,5,6] y, float[B,4,5,6] n"),
            "output 'c' also feeds n",
        ),
        (model(f"{CONV} y = Relu (c)", y="float[B,4,5,6] y, float[B,4,5,6] c"), "'c' is an output of the graph"),
    ],
)
def test_what_is_refused(built: ir.Model, reason: str) -> None:
    _, result = legalise(built, FuseConvActivation())
    assert reasons(result) == [reason]


def test_a_type_without_kernel_is_refused() -> None:
    result = refused(model(f"{CONV} y = Relu (c)", y="double[B,4,5,6] y", dtype="double"), FuseConvActivation())
    assert reasons(result) == ["the target has no com.microsoft FusedConv for DOUBLE"]


def test_a_residual_of_unknown_size_stays() -> None:
    built = graph_from(
        """g (float[B,4,H,W] x, float[4,4,3,3] w, float[B,4,K,L] r) => (float[B,4,M,N] y) {
        c = Conv (x, w) s = Add (c, r) y = Relu (s) }"""
    )
    assert reasons(refused(built, FuseConvActivation())) == []


@pytest.mark.parametrize("r", ["1,4,5,6", "4,1,1", "B,4,1,1"])
def test_a_residual_that_broadcasts_stays(r: str) -> None:
    after, _ = legalise(model(f"{CONV} s = Add (c, r) y = Relu (s)", r=r), FuseConvActivation())
    assert [node.op_type for node in after.graph] == ["Conv", "Add", "Relu"]


def test_a_sum_with_another_reader_is_joined_but_not_its_activation() -> None:
    body = f"{CONV} s = Add (c, r) y = Relu (s) n = Neg (s)"
    after, result = legalise(model(body, y="float[B,4,5,6] y, float[B,4,5,6] n"), FuseConvActivation())
    assert forms(after) == ["FusedConv(x, w, b, r)", "Relu(s)", "Neg(s)"]
    assert "activation" not in attributes(after, "FusedConv")
    assert len(result.applied) == 1


def test_computed_bounds_and_sums_of_one_convolution_stay() -> None:
    after, result = legalise(model(f"{CONV} y = Clip (c, m)"), FuseConvActivation())
    assert [node.op_type for node in after.graph] == ["Conv", "Clip"]
    after, result = legalise(model(f"{CONV} y = Add (c, c)"), FuseConvActivation())
    assert [node.op_type for node in after.graph] == ["Conv", "Add"]
    assert not result.applied


def test_int8_convolutions_are_left_to_the_runtime() -> None:
    built = graph_from(
        """g (uint8[B,4,5,6] q, float f, uint8 z, float[4,4,1,1] w) => (uint8[B,4,5,6] y) {
        x = DequantizeLinear (q, f, z) c = Conv (x, w) a = Relu (c) y = QuantizeLinear (a, f, z) }"""
    )
    _, result = legalise(built, FuseConvActivation())
    assert reasons(result) == ["'x' comes from int8"]
