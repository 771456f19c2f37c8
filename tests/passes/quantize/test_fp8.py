"""quantize-fp8: Q/DQ in e4m3, its scales, what stays, and that the numbers hold on ONNX Runtime's float8 kernels."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, PassResult
from passes.capabilities import PORTABLE
from passes.errors import UsageError
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.quantize.calibrate import calibrate
from passes.quantize.fp8 import QuantizeFp8
from passes.quantize.fp8_weights import GREATEST, fp8_weight
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

ADA = replace(PORTABLE, fp8_operators=frozenset({"Conv", "Gemm", "MatMul"}))
TEXT = """g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8] b1, float[10,288] w2) => (float[N,10] y) {
    a = Conv (x, w1, b1) r = Relu (a) f = Flatten (r) y = Gemm <transB = 1> (f, w2)
}"""
FEEDS = [{"x": random_array(2, 4, 8, 8, seed=seed)} for seed in range(4)]


def network() -> ir.Model:
    arrays = {"w1": random_array(8, 4, 3, 3), "b1": random_array(8, seed=1), "w2": random_array(10, 288, seed=2)}
    return add_weights(graph_from(TEXT), **arrays)


def quantize(
    model: ir.Model, feeds: list[dict[str, np.ndarray]] = FEEDS, **options: object
) -> tuple[ir.Model, PassResult]:
    context = Context(ADA, ranges=calibrate(model, feeds))
    after, results = Pipeline((QuantizeFp8(**options),)).run(model, context=context)  # type: ignore[arg-type]
    return after, results[0]


def sqnr_db(model: ir.Model, after: ir.Model, feeds: list[dict[str, np.ndarray]] = FEEDS) -> float:
    before, now = (np.concatenate([out["y"].ravel() for out in run_model(each, feeds)]) for each in (model, after))
    return float(10 * np.log10(np.square(before).sum() / np.square(before - now).sum()))


def test_every_product_reads_fp8_and_the_numbers_hold() -> None:
    after, result = quantize(network())
    assert counts(after) == {"QuantizeLinear": 2, "DequantizeLinear": 4, "Conv": 1, "Relu": 1, "Flatten": 1, "Gemm": 1}
    assert [event.rule for event in result.applied] == ["fp8 Conv", "fp8 Gemm"]
    low = {node.inputs[0].dtype for node in after.graph if node.op_type == "DequantizeLinear"}
    assert low == {ir.DataType.FLOAT8E4M3FN}
    assert not {"w1", "w2"} & set(after.graph.initializers)
    assert 20 < sqnr_db(network(), after) < 45


def test_the_greatest_that_was_seen_becomes_448() -> None:
    after, _ = quantize(network())
    quantizer = next(node for node in after.graph if node.op_type == "QuantizeLinear")
    peak = max(float(np.abs(feed["x"]).max()) for feed in FEEDS)
    assert np.isclose(quantizer.inputs[1].const_value.numpy(), peak / GREATEST)


def test_weight_scales_are_chosen_for_the_least_error() -> None:
    weight = random_array(16, 64, seed=3)
    codes, scale = fp8_weight(weight, axis=0)
    peaks = np.abs(weight).max(axis=1) / np.float32(GREATEST)

    def error(codes: np.ndarray, scale: np.ndarray) -> float:
        return float(np.square(codes.astype(np.float32) * scale[:, None] - weight).sum())

    plain = (weight / peaks[:, None]).astype(ml_dtypes.float8_e4m3fn)
    assert error(codes, scale) < 0.98 * error(plain, peaks)
    assert np.isfinite(codes.astype(np.float32)).all()
    one, single = fp8_weight(weight, axis=None)
    assert one.shape == weight.shape
    assert single.shape == ()


def test_a_scale_for_each_channel_keeps_quiet_channels() -> None:
    quiet = random_array(48, 32) * np.geomspace(1e-6, 1, 48, dtype=np.float32)[:, None]
    text = "g (float[N,32] x, float[48,32] w) => (float[N,48] y) { y = Gemm <transB = 1> (x, w) }"
    source = add_weights(graph_from(text), w=quiet)
    feeds = [{"x": random_array(8, 32, seed=1)}]

    def error(granularity: str) -> float:
        after, _ = quantize(source, feeds, granularity=granularity)
        before, now = (run_model(each, feeds)[0]["y"][:, :4] for each in (source, after))
        return float(np.square(before - now).sum() / np.square(before).sum())

    assert error("channel") < 0.1 * error("tensor")


def test_what_stays_and_why() -> None:
    text = """g (float[N,8,8] x, float[8,16] w, float[8,2] s) => (float[N,8,8] y, float[N,8,16] z, float[N,8,2] v) {
        t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t) z = MatMul (x, w) v = MatMul (x, s)
    }"""
    source = add_weights(graph_from(text), w=random_array(8, 16), s=random_array(8, 2))
    after, result = quantize(source, [{"x": random_array(2, 8, 8)}])
    assert len(result.applied) == 1
    assert any("its weight is not constant" in reason for reason in reasons(result))
    assert any("has only 16 elements" in reason for reason in reasons(result))
    assert counts(after)["QuantizeLinear"] == 1


@pytest.mark.parametrize(
    ("context", "opset", "said"),
    [
        (Context(), 23, "has no fp8 products"),
        (Context(ADA), 23, "needs calibrated ranges"),
        (Context(ADA, ranges={"x": None}), 17, "needs 19"),  # type: ignore[dict-item]
    ],
)
def test_it_refuses_what_it_cannot_do(context: Context, opset: int, said: str) -> None:
    source = add_weights(
        graph_from("g (float[N,32] x, float[32,8] w) => (float[N,8] y) { y = MatMul (x, w) }", opset=opset),
        w=random_array(32, 8),
    )
    with pytest.raises(UsageError, match=said):
        QuantizeFp8().run(source, context)
