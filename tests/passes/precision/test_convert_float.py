"""convert-fp16 and convert-bf16: types, kept operators, masks, and the numbers."""

from __future__ import annotations

from pathlib import Path

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


def test_a_mask_is_selected_in_float32_and_finite_where_attention_reads_it() -> None:
    after, refused = convert(model(), ConvertFp16())
    where = next(node for node in after.graph if node.op_type == "Where")
    assert {str(value.dtype) for value in where.inputs[1:]} == {"FLOAT"}
    assert refused["h"] == "'least' may be a mask or number beyond float16"
    text = """g (float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v, float[4,4] m) => (float[1,2,4,8] y) {
        y = Attention (q, k, v, m)
    }"""
    least = float(np.finfo(np.float32).min)
    mask = np.triu(np.full((4, 4), least, np.float32), 1)
    for step, kind in ((ConvertFp16(), np.dtype(np.float16)), (ConvertBf16(), np.dtype(ml_dtypes.bfloat16))):
        attended, _ = convert(add_weights(graph_from(text), m=mask), step)
        (twin,) = attended.graph.initializers.values()
        stored = twin.const_value.numpy()
        assert stored.dtype == kind
        assert np.isfinite(stored.astype(np.float64)).all()
        assert float(stored.min()) <= -65504 / 2


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
    text = """g (float[N,2] x, float[2,2] w) => (float[N,2] y) {
        a = MatMul (x, w) b = MatMul (a, w) c = Add (a, b) d = Exp (c) e = Log (c) f = MatMul (d, w) y = Add (f, e)
    }"""
    after, _ = convert(add_weights(graph_from(text), w=random_array(2, 2)), ConvertFp16())
    assert counts(after)["Cast"] == 4  # x, c back to float32, d, and f: the last Add stays with e
    assert len(after.graph.initializers) == 1


def test_subgraphs_are_converted_inside_and_bounded_by_float32() -> None:
    text = """g (float[2,2] x, float[2,2] w, bool p) => (float[2,2] y) {
        a = MatMul (x, w)
        y = If (p) <then_branch = t () => (float[2,2] b) { c = MatMul (a, w) b = Relu (c) },
                    else_branch = e () => (float[2,2] d) { d = Exp (a) }>
    }"""
    source = add_weights(graph_from(text), w=random_array(2, 2))
    after, refused = convert(source, ConvertFp16())
    inner = {node.op_type: node for node in after.graph.all_nodes() if node.graph is not after.graph}
    assert {str(value.dtype) for value in inner["MatMul"].inputs} == {"FLOAT16"}
    assert str(inner["Exp"].inputs[0].dtype) == "FLOAT"
    assert any("its subgraphs take and give float32" in reason for reason in refused.values())
    for chosen in (True, False):
        feeds = [{"x": random_array(2, 2, seed=4), "p": np.array(chosen)}]
        assert np.allclose(run_model(source, feeds)[0]["y"], run_model(after, feeds)[0]["y"], atol=1e-2)


def test_a_loop_carries_float32_and_multiplies_in_half() -> None:
    text = """g (float[2,2] x, float[2,2] w, int64 count, bool go) => (float[2,2] y) {
        y = Loop (count, go, x) <body = b (int64 i, bool on, float[2,2] s) => (bool more, float[2,2] next) {
            more = Identity (on) m = MatMul (s, w) next = Tanh (m)
        }>
    }"""
    source = add_weights(graph_from(text), w=random_array(2, 2))
    after, _ = convert(source, ConvertFp16())
    inner = {node.op_type: node for node in after.graph.all_nodes() if node.graph is not after.graph}
    assert str(inner["MatMul"].inputs[0].dtype) == "FLOAT16"
    feeds = [{"x": random_array(2, 2, seed=4), "count": np.array(5), "go": np.array(True)}]
    assert np.allclose(run_model(source, feeds)[0]["y"], run_model(after, feeds)[0]["y"], atol=1e-2)


def test_inputs_and_outputs_become_half_where_asked_for() -> None:
    after, _ = convert(model(), ConvertFp16(io="fp16"))
    assert [str(value.dtype) for value in after.graph.inputs] == ["FLOAT16", "INT64"]
    assert [(value.name, str(value.dtype)) for value in after.graph.outputs] == [("y", "FLOAT16")]
    feeds = {"x": random_array(4, 16, seed=5), "mask": np.ones((4, 16), np.int64)}
    before = run_model(model(), [feeds])[0]["y"]
    ours = run_model(after, [feeds | {"x": feeds["x"].astype(np.float16)}])[0]["y"]
    assert ours.dtype == np.float16
    assert np.allclose(before, ours.astype(np.float32), atol=5e-3)


def test_weights_are_converted_when_they_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from passes import serialization

    source = add_weights(
        graph_from("g (float[N,64] x, float[64,64] w) => (float[N,64] y) { y = MatMul (x, w) }"),
        w=random_array(64, 64),
    )
    serialization.save_model(source, tmp_path / "model.onnx")
    read: list[str] = []
    whole = serialization.read_tensor
    monkeypatch.setattr(serialization, "read_tensor", lambda tensor: read.append(tensor.name) or whole(tensor))
    after, _ = Pipeline((ConvertFp16(),)).run(serialization.load_model(tmp_path / "model.onnx"))
    assert read == []
    serialization.save_model(after, tmp_path / "half.onnx")
    assert read == ["w"]
    feeds = [{"x": random_array(3, 64, seed=1)}]
    stored = serialization.load_model(tmp_path / "half.onnx")
    assert np.allclose(run_model(source, feeds)[0]["y"], run_model(stored, feeds)[0]["y"], atol=5e-2)


def test_an_operator_that_does_not_take_bfloat16_yet_stays_float32() -> None:
    text = "g (float[N,4,8,8] x, float[8,4,3,3] w) => (float[N,8,6,6] y) { y = Conv (x, w) }"
    for opset, kept in ((21, True), (23, False)):
        source = add_weights(graph_from(text, opset=opset), w=random_array(8, 4, 3, 3))
        _, refused = convert(source, ConvertBf16())
        assert (refused.get("y") == "Conv of opset 21 does not take bfloat16") is kept


def test_scales_of_a_resize_stay_float32() -> None:
    text = """g (float[1,4,8,8] x, float[4,4,1,1] w) => (float[1,4,16,16] y) {
        c = Conv (x, w) scales = Constant <value_floats = [1.0, 1.0, 2.0, 2.0]> () y = Resize (c, , scales)
    }"""
    after, _ = convert(add_weights(graph_from(text), w=random_array(4, 4, 1, 1)), ConvertFp16())
    resize = next(node for node in after.graph if node.op_type == "Resize")
    assert [str(value.dtype) for value in resize.inputs if value is not None] == ["FLOAT16", "FLOAT"]


def test_a_subgraph_keeps_reading_float32() -> None:
    text = """g (float[2] x, bool p) => (float[2] y) {
        a = Relu (x)
        y = If (p) <then_branch = t () => (float[2] b) { b = Neg (a) },
                    else_branch = e () => (float[2] c) { c = Abs (a) }>
    }"""
    source = graph_from(text)
    feeds = [{"x": np.array([1, -2], np.float32), "p": np.array(True)}]
    after, refused = convert(source, ConvertFp16())
    assert "its subgraphs take and give float32; what they compute is converted inside them" in refused.values()
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
