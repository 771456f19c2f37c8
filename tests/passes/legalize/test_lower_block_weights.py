"""LowerBlockWeights: MatMulNBits and GatherBlockQuantized compute what DequantizeLinear says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.execution import run_model
from passes.legalize.lower_block_weights import LowerBlockWeights
from passes.pipeline import Pipeline
from passes.quantize.weight_only.quantize_weights import QuantizeWeights
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

NAMES = ("MatMulNBits", "GatherBlockQuantized")
RUNTIME = Capabilities(
    name="contrib",
    opset_limit=23,
    kernels=frozenset(f"com.microsoft::{name}" for name in NAMES),
    kernel_types={f"com.microsoft::{name}": frozenset({"FLOAT"}) for name in NAMES},
)
BODIES = {
    "matmul": "y = MatMul(x, w)",
    "gemm": "y = Gemm(x, w)",
    "transposed": "t = Transpose(w) y = MatMul(x, t)",
    "gemm transposed": "y = Gemm <transB=1> (x, w)",
}


def quantized(body: str, step: QuantizeWeights, *, rows: int = 64, columns: int = 48) -> ir.Model:
    shape = (columns, rows) if "transB" in body or "Transpose" in body else (rows, columns)
    model = graph_from(f"g (float[B,{rows}] x, float[{shape[0]},{shape[1]}] w) => (float[B,{columns}] y) {{ {body} }}")
    return Pipeline((step,)).run(add_weights(model, w=random_array(*shape)))[0]


def lower(model: ir.Model, step: LowerBlockWeights | None = None) -> tuple[ir.Model, PassResult]:
    after, (result,) = Pipeline((step or LowerBlockWeights(),)).run(model, context=Context(RUNTIME))
    return after, result


def difference(model: ir.Model, after: ir.Model, **feeds: np.ndarray) -> float:
    """Return the greatest difference over the greatest magnitude."""
    ((old,), (new,)) = (list(run_model(each, (feeds,))[0].values()) for each in (model, after))
    assert old.shape == new.shape
    return float(np.abs(old - new).max() / np.abs(old).max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 16, 32])
@pytest.mark.parametrize("form", BODIES)
def test_products_compute_the_same(form: str, group: int, symmetric: bool, bits: int) -> None:
    step = QuantizeWeights(bits=bits, head=bits, group=group, symmetric=symmetric)
    model = quantized(BODIES[form], step)
    after, result = lower(model)
    assert counts(after) == {"MatMulNBits": 1}
    assert len(result.applied) == 1
    assert difference(model, after, x=random_array(5, 64, seed=1)) < 2e-6


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(65, 33), (48, 31), (200, 17), (2049, 1)])
def test_odd_sizes(rows: int, columns: int, symmetric: bool, bits: int) -> None:
    """A column whose length no block divides is filled up with zeros."""
    model = quantized(
        "y = MatMul(x, w)", QuantizeWeights(bits=bits, head=bits, symmetric=symmetric), rows=rows, columns=columns
    )
    after, _ = lower(model)
    assert counts(after) == {"MatMulNBits": 1}
    assert difference(model, after, x=random_array(3, rows, seed=1)) < 2e-6


def test_a_bias_goes_inside() -> None:
    model = graph_from("g (float[B,64] x, float[64,48] w, float[48] b) => (float[B,48] y) { y = Gemm(x, w, b) }")
    add_weights(model, w=random_array(64, 48), b=random_array(48, seed=2))
    model = Pipeline((QuantizeWeights(group=32, head=4),)).run(model)[0]
    after, _ = lower(model)
    assert counts(after) == {"MatMulNBits": 1}
    assert difference(model, after, x=random_array(3, 64, seed=1)) < 2e-6


def test_more_axes_in_front() -> None:
    model = graph_from("g (float[A,B,64] x, float[64,48] w) => (float[A,B,48] y) { y = MatMul(x, w) }")
    model = Pipeline((QuantizeWeights(group=32, head=4),)).run(add_weights(model, w=random_array(64, 48)))[0]
    after, _ = lower(model)
    assert difference(model, after, x=random_array(2, 3, 64, seed=1)) < 2e-6


@pytest.mark.parametrize("level", [0, 1, 4])
def test_the_accuracy_level_is_passed_on(level: int) -> None:
    model = quantized("y = MatMul(x, w)", QuantizeWeights(group=32, head=4))
    after, _ = lower(model, LowerBlockWeights(accuracy_level=level))
    node = next(iter(after.graph))
    assert node.attributes.get_int("accuracy_level", 0) == level
    limit = 2e-2 if level == 4 else 2e-6  # at 4, the input is rounded to int8
    assert difference(model, after, x=random_array(5, 64, seed=1)) < limit


TABLE = "g (int64[B,S] i, float[80,{K}] w) => (float[B,S,{K}] y) {{ y = Gather(w, i) }}"


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("group", "rows"), [(32, 64), (16, 48), (0, 64), (0, 72), (0, 34)])
def test_tables_compute_the_same(group: int, rows: int, symmetric: bool, bits: int) -> None:
    model = add_weights(graph_from(TABLE.format(K=rows)), w=random_array(80, rows))
    step = QuantizeWeights(group=group, symmetric=symmetric, embeddings=bits)
    model = Pipeline((step,)).run(model)[0]
    after, _ = lower(model)
    assert counts(after) == {"GatherBlockQuantized": 1}
    assert difference(model, after, i=np.array([[0, 79, 3], [41, -1, 5]])) < 1e-6


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_tied_embeddings_stay_stored_once(symmetric: bool, bits: int) -> None:
    body = "h = Gather(w, i) n = Tanh(h) t = Transpose(w) y = MatMul(n, t)"
    model = graph_from(f"g (int64[B,S] i, float[80,64] w) => (float[B,S,80] y) {{ {body} }}")
    step = QuantizeWeights(group=32, head=bits, symmetric=symmetric)
    model = Pipeline((step,)).run(add_weights(model, w=random_array(80, 64)))[0]
    after, _ = lower(model)
    assert counts(after) == {"Reshape": 1, "GatherBlockQuantized": 1, "Tanh": 1, "MatMulNBits": 1}
    stored = sum(
        value.const_value.nbytes for value in after.graph.initializers.values() if value.const_value is not None
    )
    assert stored <= 80 * 64 * bits // 8 + 80 * 2 * 5 + 16
    assert difference(model, after, i=np.array([[0, 79, 3]])) < 2e-6


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = Gemm <alpha=2.0> (x, w)", "the Gemm scales"),
        ("y = Gemm <transA=1> (x, w)", "the Gemm transposes its input"),
        ("b = Constant <value_float=1.0> () y = Gemm (x, w, b)", "is not a constant of one entry a column"),
    ],
)
def test_refusals(body: str, reason: str) -> None:
    after, result = lower(quantized(body, QuantizeWeights(group=32, head=4)))
    assert not result.applied
    assert any(reason in text for text in reasons(result))
    assert "DequantizeLinear" in counts(after)


def test_a_type_without_a_kernel_is_refused() -> None:
    model = graph_from("g (float16[B,64] x, float16[64,48] w) => (float16[B,48] y) { y = MatMul(x, w) }")
    model = Pipeline((QuantizeWeights(group=32),)).run(add_weights(model, w=random_array(64, 48).astype(np.float16)))[0]
    _, result = lower(model)
    assert reasons(result) == ["the target has no com.microsoft MatMulNBits for FLOAT16"]


def test_int8_products_are_left_alone() -> None:
    body = """q = QuantizeLinear(x, s) d = DequantizeLinear(q, s)
              v = DequantizeLinear <axis=1> (c, t) y = MatMul(d, v)"""
    model = graph_from(f"g (float[B,64] x, float s, int8[64,48] c, float[48] t) => (float[B,48] y) {{ {body} }}")
    add_weights(model, s=np.float32(0.1).reshape(()), c=np.ones((64, 48), np.int8), t=np.ones(48, np.float32))
    _, result = lower(model)
    assert not result.applied
    assert not result.refused


def test_a_runtime_without_the_kernels_keeps_standard_onnx() -> None:
    model = quantized("y = MatMul(x, w)", QuantizeWeights(group=32, head=4))
    after, (result,) = Pipeline((LowerBlockWeights(),)).run(model, context=Context(PORTABLE))
    assert not result.applied
    assert ir.to_onnx_text(after) == ir.to_onnx_text(model)


def test_a_table_whose_rows_end_within_a_byte_is_refused() -> None:
    model = add_weights(graph_from(TABLE.format(K=65)), w=random_array(80, 65))
    after, result = lower(Pipeline((QuantizeWeights(embeddings=4),)).run(model)[0])
    assert reasons(result) == ["a row of 65 codes of 4 bits ends within a byte"]
    assert counts(after) == {"DequantizeLinear": 1, "Gather": 1}


@pytest.mark.parametrize("bits", [4, 8])
def test_unsigned_codes_without_zero_points_are_counted_from_0(bits: int) -> None:
    """ONNX's zero point is 0 where none is given, that of the operators the middle code."""
    model = quantized("y = MatMul(x, w)", QuantizeWeights(bits=bits, head=bits, group=16, symmetric=False))
    dequantize = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    dequantize.resize_inputs(2)
    after, _ = lower(model)
    assert counts(after) == {"MatMulNBits": 1}
    assert difference(model, after, x=random_array(5, 64, seed=1)) < 2e-6


def test_codes_that_become_another_type_than_their_scales_stay() -> None:
    text = "d = DequantizeLinear <axis = 0, block_size = 16, output_dtype = 1> (w, s) y = MatMul (x, d)"
    model = graph_from(f"g (float[B,64] x, uint8[64,48] w, float16[4,48] s) => (float[B,48] y) {{ {text} }}")
    model = add_weights(model, w=np.zeros((64, 48), np.uint8), s=np.ones((4, 48), np.float16))
    runtime = replace(RUNTIME, kernel_types={f"com.microsoft::{name}": frozenset({"FLOAT16"}) for name in NAMES})
    after, _ = Pipeline((LowerBlockWeights(),)).run(model, context=Context(runtime))
    assert counts(after) == {"DequantizeLinear": 1, "MatMul": 1}
