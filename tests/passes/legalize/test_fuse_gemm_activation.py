"""FuseGemmActivation: the activations that it joins to a Gemm, and what it refuses."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.legalize.fuse_gemm_activation import FuseGemmActivation
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import graph_from, reasons


def model(body: str, *, y: str = "float[M,8] y", dtype: str = "float") -> ir.Model:
    return graph_from(f"g ({dtype}[M,6] x, {dtype}[6,8] w, {dtype}[8] b) => ({y}) {{ {body} }}")


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("Relu (g)", {"activation": "Relu"}),
        ("Sigmoid (g)", {"activation": "Sigmoid"}),
        ("Tanh (g)", {"activation": "Tanh"}),
        ("LeakyRelu (g)", {"activation": "LeakyRelu", "activation_alpha": 0.01}),
        (
            "HardSigmoid <alpha = 0.3, beta = 0.4> (g)",
            {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.4},
        ),
    ],
)
def test_activations(activation: str, expected: dict[str, object]) -> None:
    after, _ = legalise(model(f"g = Gemm <alpha = 0.5> (x, w, b) y = {activation}"), FuseGemmActivation())
    assert forms(after) == ["FusedGemm(x, w, b)"]
    assert attributes(after, "FusedGemm") == {
        name: value if isinstance(value, str) else pytest.approx(value)
        for name, value in {"alpha": 0.5, **expected}.items()
    }


def test_a_second_reader_and_a_type_without_kernel_are_refused() -> None:
    body = "g = Gemm (x, w, b) y = Relu (g) n = Neg (g)"
    assert reasons(refused(model(body, y="float[M,8] y, float[M,8] n"), FuseGemmActivation())) == [
        "output 'g' also feeds n"
    ]
    body = "g = Gemm (x, w, b) y = Relu (g)"
    assert reasons(refused(model(body, y="double[M,8] y", dtype="double"), FuseGemmActivation())) == [
        "the target has no com.microsoft FusedGemm for DOUBLE"
    ]


def test_an_activation_without_kernel_is_no_match() -> None:
    assert not refused(model("g = Gemm (x, w, b) y = Elu (g)"), FuseGemmActivation()).refused


def test_int8_is_left_to_the_runtime() -> None:
    built = graph_from(
        """g (uint8[M,6] q, float f, uint8 z, float[6,8] w) => (float[M,8] y) {
        x = DequantizeLinear (q, f, z) g = Gemm (x, w) y = Relu (g) }"""
    )
    assert reasons(refused(built, FuseGemmActivation())) == ["'x' comes from int8"]
