"""convert-fp16 and convert-bf16: types, kept operators, masks, and the numbers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.base import Context, Pass
from passes.execution import run_model
from passes.parse import pipeline_from_text
from passes.pipeline import Pipeline
from passes.precision.convert_float import ConvertBf16, ConvertFp16
from passes.precision.overflow import KEPT_FLOAT32
from passes.quantize.ranges import ActivationRange
from tests.support.rewriting import add_weights, counts, graph_from, operators, random_array

TEXT = """g (float[N,16] x, float[16,16] w, float[16] s, float[16] b, int64[N,16] mask) => (float[N,16] y) {
    m = MatMul (x, w)
    n = LayerNormalization (m, s, b)
    r = Relu (n)
    least = Constant <value = float {-3.4e38}> ()
    keep = Cast <to = 9> (mask)
    h = Where (keep, r, least)
    y = Softmax (h)
}"""


def model() -> ir.Model:
    return add_weights(graph_from(TEXT), w=random_array(16, 16), s=random_array(16, seed=1), b=random_array(16, seed=2))


def convert(source: ir.Model, step: Pass, **ranges: ActivationRange) -> tuple[ir.Model, dict[str, str]]:
    after, results = Pipeline((step,)).run(source, context=Context(ranges=ranges))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    return after, {event.node: event.reason for event in results[0].refused}


@pytest.mark.parametrize(("step", "half"), [(ConvertFp16(), "FLOAT16"), (ConvertBf16(), "BFLOAT16")], ids=str)
def test_the_types_inside_are_half_and_those_outside_are_kept(step: Pass, half: str) -> None:
    after, refused = convert(model(), step)
    assert [str(value.dtype) for value in after.graph.inputs] == ["FLOAT", "INT64"]
    assert [(value.name, str(value.dtype)) for value in after.graph.outputs] == [("y", "FLOAT")]
    by_operator = {node.op_type: node for node in after.graph if node.op_type != "Cast"}
    assert {str(value.dtype) for value in by_operator["MatMul"].inputs} == {half}
    assert {str(value.dtype) for value in by_operator["LayerNormalization"].inputs} == {"FLOAT"}
    assert set(refused.values()) >= {KEPT_FLOAT32["LayerNormalization"]}
    assert "w" not in after.graph.initializers


def test_a_mask_constant_becomes_the_largest_number_and_never_infinity() -> None:
    for step, kind in ((ConvertFp16(), np.dtype(np.float16)), (ConvertBf16(), np.dtype(ml_dtypes.bfloat16))):
        after, _ = convert(model(), step)
        where = next(node for node in after.graph if node.op_type == "Where")
        mask = ir.convenience.get_const_tensor(where.inputs[2]).numpy()
        assert mask.dtype == kind
        assert np.isfinite(mask.astype(np.float64)).all()
        assert float(mask) <= -65504 * (1 - 1e-3)


def test_the_numbers_hold_and_masked_entries_stay_masked() -> None:
    mask = np.ones((4, 16), np.int64)
    mask[:, 9:] = 0
    feeds = [{"x": random_array(4, 16, seed=5), "mask": mask}]
    before, after = (run_model(each, feeds)[0]["y"] for each in (model(), convert(model(), ConvertFp16())[0]))
    assert after.dtype == np.float32
    assert np.allclose(before, after, atol=2e-3)
    assert not after[:, 9:].any()


def test_an_operator_near_overflow_in_the_calibration_data_stays_float32() -> None:
    seen = {"m": ActivationRange(-1, 1, -5e4, 10.0)}
    after, refused = convert(model(), ConvertFp16(), **seen)
    matmul = next(node for node in after.graph if node.op_type == "MatMul")
    assert {str(value.dtype) for value in matmul.inputs} == {"FLOAT"}
    assert "reaches 5e+04" in " ".join(refused.values())
    assert "reaches" not in " ".join(convert(model(), ConvertBf16(), **seen)[1].values())


def test_a_real_constant_beyond_float16_keeps_its_operator_in_float32() -> None:
    text = "g (float[N,2] x, float[2] c) => (float[N,2] y) { y = Mul (x, c) }"
    source = add_weights(graph_from(text), c=np.array([1e5, 1.0], np.float32))
    after, refused = convert(source, ConvertFp16())
    assert operators(after) == ["Mul"]
    assert "holds 1e+05" in " ".join(refused.values())


def test_each_value_is_cast_once_however_many_operators_read_it() -> None:
    text = """g (float[N,2] x) => (float[N,2] y) {
        a = Relu (x) b = Tanh (x) c = Add (a, b) d = Exp (c) e = Log (c) y = Add (d, e)
    }"""
    after, _ = convert(graph_from(text), ConvertFp16())
    assert counts(after)["Cast"] == 5  # x, c back to float32, d, e, y


def test_a_subgraph_keeps_reading_float32() -> None:
    text = """g (float[2] x, bool p) => (float[2] y) {
        a = Relu (x)
        y = If (p) <then_branch = t () => (float[2] b) { b = Neg (a) },
                    else_branch = e () => (float[2] c) { c = Abs (a) }>
    }"""
    source = graph_from(text)
    feeds = [{"x": np.array([1, -2], np.float32), "p": np.array(True)}]
    after, refused = convert(source, ConvertFp16())
    assert "it has a subgraph, which stays as it is" in refused.values()
    assert np.allclose(run_model(source, feeds)[0]["y"], run_model(after, feeds)[0]["y"])


def test_a_subgraph_that_only_captures_floats_keeps_reading_float32() -> None:
    text = """g (float[2] x, float[2] w, bool p) => (bool[2] y) {
        a = Mul (x, w)
        y = If (p) <then_branch = t () => (bool[2] b) { d = Sub (a, x) b = Less (d, w) },
                    else_branch = e () => (bool[2] c) { c = Less (a, w) }>
    }"""
    source = add_weights(graph_from(text), w=np.array([0.5, 2.0], np.float32))
    after, _ = convert(source, ConvertFp16())
    assert {str(value.dtype) for node in after.graph if node.op_type == "Mul" for value in node.inputs} == {"FLOAT16"}
    for chosen in (True, False):
        feeds = [{"x": np.array([1, -2], np.float32), "p": np.array(chosen)}]
        assert np.array_equal(run_model(source, feeds)[0]["y"], run_model(after, feeds)[0]["y"])


@pytest.mark.parametrize(("step", "suffix"), [(ConvertFp16(), "fp16"), (ConvertBf16(), "bf16")], ids=str)
def test_names_that_are_taken_are_not_made_again(step: Pass, suffix: str) -> None:
    text = f"""g (float[N,2] x, float[2,2] w, float[2] w_{suffix}) => (float[N,2] y) {{
        x_{suffix} = MatMul (x, w) y_{suffix} = Add (x_{suffix}, w_{suffix}) y = Relu (y_{suffix})
    }}"""
    weights = {"w": random_array(2, 2), f"w_{suffix}": random_array(2, seed=1)}
    source = add_weights(graph_from(text), **weights)
    after, _ = convert(source, step)
    feeds = [{"x": random_array(3, 2, seed=2)}]
    if suffix == "fp16":  # the CPU runtime has no bfloat16 kernels
        assert np.allclose(run_model(source, feeds)[0]["y"], run_model(after, feeds)[0]["y"], atol=5e-3)


def test_the_names_parse() -> None:
    assert str(pipeline_from_text("convert-fp16,convert-bf16")) == "convert-fp16,convert-bf16"


def test_a_second_run_changes_nothing() -> None:
    once, _ = convert(model(), ConvertFp16())
    twice, _ = convert(once, ConvertFp16())
    assert operators(once) == operators(twice)
