"""FuseMatmulScale: the transpositions and factors that it absorbs, and what it refuses."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.legalize.fuse_matmul_scale import FuseMatmulScale
from tests.support.contrib import attributes, forms, legalise, refused
from tests.support.rewriting import graph_from, reasons

SWAP = "Transpose <perm = [0, 1, 3, 2]>"
HALF = "h = Constant <value_float = 0.5> ()"


def model(body: str, *, k: str = "B,H,T,D", y: str = "float[B,H,S,T] y", dtype: str = "float") -> ir.Model:
    return graph_from(f"g ({dtype}[B,H,S,D] q, {dtype}[{k}] k) => ({y}) {{ {body} }}")


@pytest.mark.parametrize(
    ("body", "operands", "expected"),
    [
        (f"t = {SWAP} (k) y = MatMul (q, t)", "q, k", {"transB": 1}),
        (f"{HALF} t = {SWAP} (k) p = MatMul (q, t) y = Mul (p, h)", "q, k", {"transB": 1, "alpha": 0.5}),
        (f"{HALF} t = {SWAP} (k) p = MatMul (q, t) y = Div (p, h)", "q, k", {"transB": 1, "alpha": 2.0}),
        (f"{HALF} s = Mul (h, q) t = {SWAP} (k) y = MatMul (s, t)", "q, k", {"transB": 1, "alpha": 0.5}),
        (f"{HALF} s = Mul (k, h) t = {SWAP} (s) y = MatMul (q, t)", "q, k", {"transB": 1, "alpha": 0.5}),
        (f"{HALF} t = {SWAP} (k) s = Mul (t, h) y = MatMul (q, s)", "q, k", {"transB": 1, "alpha": 0.5}),
    ],
)
def test_the_forms(body: str, operands: str, expected: dict[str, float]) -> None:
    after, _ = legalise(model(body), FuseMatmulScale())
    assert [text for text in forms(after) if "Constant" not in text] == [f"FusedMatMul({operands})"]
    assert attributes(after, "FusedMatMul") == expected


def test_both_operands_transposed_and_a_matrix_without_perm() -> None:
    built = graph_from("g (float[K,M] a, float[N,K] b) => (float[M,N] y) { s = Transpose (a) t = Transpose (b) y = MatMul (s, t) }")  # fmt: skip # noqa: E501
    after, _ = legalise(built, FuseMatmulScale())
    assert forms(after) == ["FusedMatMul(a, b)"]
    assert attributes(after, "FusedMatMul") == {"transA": 1, "transB": 1}


def test_a_transpose_with_another_reader_stays_for_it() -> None:
    after, _ = legalise(
        model(f"t = {SWAP} (k) y = MatMul (q, t) n = Neg (t)", y="float[B,H,S,T] y, float[B,H,D,T] n"),
        FuseMatmulScale(),
    )
    assert forms(after) == ["Transpose(k)", "FusedMatMul(q, k)", "Neg(t)"]


@pytest.mark.parametrize(
    "body",
    [
        "t = Transpose <perm = [0, 2, 3, 1]> (k) y = MatMul (q, t)",  # another permutation
        "y = MatMul (q, k)",
        f"{HALF} s = Add (q, h) y = MatMul (s, k)",
    ],
)
def test_what_is_no_match(body: str) -> None:
    built = model(body, k="B,D,H,T" if "perm" not in body else "B,T,H,D", y="float[w,x,y0,z] y")
    assert not refused(built, FuseMatmulScale()).refused


@pytest.mark.parametrize("body", ["s = Mul (q, h) n = Neg (s)", "p = MatMul (q, k) y = Mul (p, h) n = Neg (p)"])
def test_a_factor_whose_value_is_read_elsewhere_stays(body: str) -> None:
    full = f"{HALF} {body}" + ("" if "MatMul" in body else " y = MatMul (s, k)")
    after, result = legalise(model(full, k="B,H,D,D", y="float[B,H,S,D] y, float[B,H,S,D] n"), FuseMatmulScale())
    assert not result.applied
    assert "FusedMatMul" not in [node.op_type for node in after.graph]


def test_vectors_and_types_without_kernel_are_refused() -> None:
    built = graph_from(f"g (float[D] q, float[D,N] k) => (float[N] y) {{ {HALF} s = Mul (q, h) y = MatMul (s, k) }}")
    assert reasons(refused(built, FuseMatmulScale())) == ["its operands are not known to be matrices"]
    built = model(f"t = {SWAP} (k) y = MatMul (q, t)", y="double[B,H,S,T] y", dtype="double")
    assert reasons(refused(built, FuseMatmulScale())) == ["the target has no com.microsoft FusedMatMul for DOUBLE"]


def test_int8_is_left_to_the_runtime() -> None:
    built = graph_from(
        f"""g (uint8[B,H,S,D] c, float f, uint8 z, float[B,H,T,D] k) => (float[B,H,S,T] y) {{
        q = DequantizeLinear (c, f, z) t = {SWAP} (k) y = MatMul (q, t) }}"""
    )
    assert reasons(refused(built, FuseMatmulScale())) == ["'q' comes from int8"]
