"""quantize-static: where each runtime's scheme puts Q/DQ, what is refused, and that the numbers hold."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, PassResult, node_label
from passes.capabilities import Capabilities, QuantizationSupport
from passes.errors import UsageError
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.quantize.calibrate import calibrate
from passes.quantize.ranges import ActivationRange
from passes.quantize.static import QuantizeStatic
from passes.serialization import save_model
from tests.support.rewriting import add_weights, counts, graph_from, operators, random_array, reasons

WEIGHTED = frozenset({"Conv", "MatMul", "Gemm"})
MOVERS = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten"})
CHAINED = QuantizationSupport(
    operators=WEIGHTED | {"Add"},
    passthrough=MOVERS,
    float_fused=frozenset({"Relu", "Clip"}),
    activation_types=("uint8", "int8"),
    symmetric_activations=False,
    bias="int32",
    quantize_outputs=True,
    float_output=frozenset({"MatMul", "Gemm"}),
)
INPUTS_ONLY = replace(CHAINED, operators=WEIGHTED, bias="float32", quantize_outputs=False)
SYMMETRIC = replace(INPUTS_ONLY, symmetric_activations=True, activation_types=("int8",))

CNN = """g (float[N,4,8,8] x, float[8,4,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[10,512] w3, float[10] b3)
      => (float[N,10] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu (a)
    c = Conv (r, w2)
    s = Add (c, r)
    p = Relu (s)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""


CHAINED_CNN = (
    "QuantizeLinear DequantizeLinear DequantizeLinear DequantizeLinear Conv Relu "
    "QuantizeLinear DequantizeLinear DequantizeLinear DequantizeLinear Conv "
    "QuantizeLinear DequantizeLinear Add Relu QuantizeLinear DequantizeLinear Flatten "
    "QuantizeLinear DequantizeLinear DequantizeLinear DequantizeLinear Gemm"
)


def cnn() -> ir.Model:
    return add_weights(
        graph_from(CNN),
        w1=random_array(8, 4, 3, 3, seed=1),
        b1=random_array(8, seed=2),
        w2=random_array(8, 8, 1, 1, seed=3),
        w3=random_array(10, 512, seed=4),
        b3=random_array(10, seed=5),
    )


def quantize(
    model: ir.Model, support: QuantizationSupport, feeds: list[dict[str, np.ndarray]], **options: object
) -> tuple[ir.Model, PassResult]:
    context = Context(Capabilities("test", 23, quantization=support), ranges=calibrate(model, feeds))
    after, results = Pipeline((QuantizeStatic(**options),)).run(model, context=context)  # type: ignore[arg-type]
    return after, results[0]


def sqnr_db(model: ir.Model, after: ir.Model, feeds: list[dict[str, np.ndarray]]) -> float:
    signal = noise = 0.0
    for old, new in zip(run_model(model, feeds), run_model(after, feeds), strict=True):
        for name in old:
            signal += float(np.square(old[name]).sum())
            noise += float(np.square(old[name] - new[name]).sum())
    return float(10 * np.log10(signal / max(noise, 1e-30)))


def images(count: int = 4, seed: int = 9) -> list[dict[str, np.ndarray]]:
    return [{"x": random_array(2 + index, 4, 8, 8, seed=seed + index)} for index in range(count)]


def test_full_chains_quantize_every_result_that_an_int8_operator_returns() -> None:
    after, result = quantize(cnn(), CHAINED, images())
    assert " ".join(operators(after)) == CHAINED_CNN
    assert result.refused == ()
    flatten = next(node for node in after.graph if node.op_type == "Flatten")
    before, behind = flatten.inputs[0].producer(), next(iter(flatten.outputs[0].uses())).node
    assert before.inputs[1].const_value.numpy() == behind.inputs[1].const_value.numpy(), "one scale through a mover"
    biases = [node for node in after.graph if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2]
    assert {str(node.inputs[2].producer().inputs[0].dtype) for node in biases} == {"INT32"}
    relu = next(node for node in after.graph if node.op_type == "Relu")
    assert next(iter(relu.outputs[0].uses())).node.inputs[2].const_value.numpy() == 0, "a Relu's zero is the least code"


@pytest.mark.parametrize("support", [CHAINED, INPUTS_ONLY, SYMMETRIC], ids=["chained", "inputs-only", "symmetric"])
@pytest.mark.parametrize("other", ["z = Neg (r)", "z = Identity (x)"], ids=["mid-chain", "root"])
def test_a_float_reader_in_mid_chain_is_not_clipped(support: QuantizationSupport, other: str) -> None:
    text = f"""g (float[N,4,64] x, int64[4] shape, float[8,4,3,3] w) => (float[N,8,2,2] y, float z) {{
        r = Reshape (x, shape) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        c = Conv (p, w) y = Neg (c) {other}
    }}"""
    model = add_weights(graph_from(text), shape=np.array([0, 4, 8, 8]), w=random_array(8, 4, 3, 3))
    x = random_array(8, 4, 32, 2, seed=1)
    x[..., 1] = -50 - 50 * np.abs(x[..., 1])  # every window keeps its other column
    feeds = [{"x": x.reshape(8, 4, 64)}]
    after, _ = quantize(model, support, feeds)
    assert counts(after)["QuantizeLinear"] >= 1
    old, new = (run_model(each, feeds)[0]["z"] for each in (model, after))
    assert 10 * np.log10(np.square(old).sum() / max(np.square(old - new).sum(), 1e-20)) > 30


def test_inputs_only_leaves_the_residual_and_the_biases_in_float() -> None:
    after, _ = quantize(cnn(), INPUTS_ONLY, images())
    assert counts(after)["QuantizeLinear"] == 3
    addition = next(node for node in after.graph if node.op_type == "Add")
    assert [value.producer().op_type for value in addition.inputs] == ["Conv", "Relu"]
    flatten = next(node for node in after.graph if node.op_type == "Flatten")
    assert flatten.inputs[0].producer().op_type == "DequantizeLinear", "the mover runs on integers"
    assert all(
        len(node.inputs) < 3 or node.inputs[2].is_initializer() for node in after.graph if node.op_type == "Conv"
    )


def test_symmetric_has_no_zero_points() -> None:
    after, _ = quantize(cnn(), SYMMETRIC, images())
    for node in after.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2].const_value.numpy()
            assert zero.dtype == np.int8
            assert not zero.any()


@pytest.mark.parametrize("support", [CHAINED, INPUTS_ONLY, SYMMETRIC], ids=["chained", "inputs-only", "symmetric"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_the_numbers_hold_and_a_planted_scale_does_not(support: QuantizationSupport, granularity: str) -> None:
    model, held_out = cnn(), images(seed=90)
    after, _ = quantize(model, support, images(), granularity=granularity)
    assert sqnr_db(model, after, held_out) > 30
    scale = next(value for name, value in after.graph.initializers.items() if name == "w2_scale")
    scale.const_value = ir.Tensor(scale.const_value.numpy() * np.float32(1.2), name=scale.name)
    assert sqnr_db(model, after, held_out) < 30


def test_one_channel_scale_each_and_the_float_weights_are_gone() -> None:
    after, _ = quantize(cnn(), INPUTS_ONLY, images())
    constants = {name: value.const_value for name, value in after.graph.initializers.items()}
    assert not {"w1", "w2", "w3"} & set(constants)
    assert constants["w1_quantized"].dtype == ir.DataType.INT8
    assert tuple(constants["w1_scale"].shape) == (8,)
    dequantize = next(node for node in after.graph if node.inputs[0].name == "w3_quantized")
    assert dequantize.attributes.get_int("axis", -9) == 0


def test_a_shared_weight_and_a_shared_input_are_quantized_once() -> None:
    model = add_weights(
        graph_from("g (float[N,16] x, float[16,16] w) => (float[N,16] y, float[N,16] z) {"
                   " y = MatMul (x, w) h = Tanh (x) z = MatMul (h, w) }"),
        w=random_array(16, 16),
    )  # fmt: skip
    after, _ = quantize(model, replace(INPUTS_ONLY), [{"x": random_array(8, 16)}])
    assert counts(after)["DequantizeLinear"] == 3
    assert counts(after)["QuantizeLinear"] == 2


def test_a_tied_embedding_stays_readable() -> None:
    text = """g (int64[N] ids, float[20,16] table) => (float[N,20] y) {
        e = Gather (table, ids) t = Tanh (e) y = Gemm <transB = 1> (t, table)
    }"""
    model = add_weights(graph_from(text), table=random_array(20, 16))
    feeds = [{"ids": np.arange(20)}]
    after, _ = quantize(model, INPUTS_ONLY, feeds)
    assert "table" in after.graph.initializers
    assert sqnr_db(model, after, feeds) > 30


def test_an_outlier_channel_moves_into_the_weight() -> None:
    text = "g (float[N,64] x, float[64,32] w, float[32] b) => (float[N,32] y) { m = MatMul (x, w) y = Add (m, b) }"
    model = add_weights(graph_from(text), w=random_array(64, 32, seed=1), b=random_array(32, seed=2))
    x = random_array(400, 64, seed=3)
    x[:, 7] *= 60
    model.graph.initializers["w"].const_value.numpy()[7] /= 60
    feeds = [{"x": x}]
    smoothed, _ = quantize(model, INPUTS_ONLY, feeds)
    plain, _ = quantize(model, INPUTS_ONLY, feeds, smooth=False, least_sqnr_db=-100.0)
    assert counts(smoothed)["Mul"] == 1
    assert "Mul" not in counts(plain)
    assert sqnr_db(model, smoothed, feeds) > sqnr_db(model, plain, feeds) + 6


def test_a_rounded_weights_mean_shift_is_taken_off_the_bias() -> None:
    text = "g (float[N,4,4,4] x, float[8,4,3,3] w) => (float[N,8,2,2] y) { y = Conv (x, w) }"
    model = add_weights(graph_from(text), w=random_array(8, 4, 3, 3))
    feeds = [{"x": random_array(8, 4, 4, 4, seed=1) * np.float32(0.1) + 3}]
    corrected, _ = quantize(model, INPUTS_ONLY, feeds)
    plain, _ = quantize(model, INPUTS_ONLY, feeds, correct_bias=False)
    assert [len(node.inputs) for node in corrected.graph if node.op_type == "Conv"] == [3]
    assert sqnr_db(model, corrected, feeds) > sqnr_db(model, plain, feeds)


def test_a_limit_stops_in_the_middle_with_a_graph_that_runs() -> None:
    model = cnn()
    context = Context(Capabilities("test", 23, quantization=CHAINED), ranges=calibrate(model, images()))
    after, results = Pipeline((QuantizeStatic(),)).run(model, context=context, limit=1)
    assert len(results[0].applied) == 1
    assert sqnr_db(model, after, images()) > 30


REFUSALS = {
    "has only 16 elements": "g (float[N,4] x, float[4,4] w) => (float[N,4] y) { y = MatMul (x, w) }",
    "both operands are activations": "g (float[N,N] x) => (float[N,N] y) { y = MatMul (x, x) }",
    "not finite": "g (float[N,16] x, float[16,16] bad) => (float[N,16] y) { y = MatMul (x, bad) }",
    "its weight is not constant": "g (float[1,4,4,4] x, float[4,4,3,3] v) => (float[1,4,2,2] y) { y = Conv (x, v) }",
    "has no calibrated range": "g (int64[N,16] i, float[16,16] w) => (float[N,16] y) { f = Cast <to = 1> (i)"
    " y = MatMul (f, w) }",
    "above their error": "g (float[N,16] spiky, float[16,16] w) => (float[N,16] y) { y = MatMul (spiky, w) }",
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals(reason: str) -> None:
    model = graph_from(REFUSALS[reason])
    sizes = {"w": random_array(*model.graph.inputs[1].shape.numpy())} if "w)" in REFUSALS[reason] else {}
    if "bad" in REFUSALS[reason]:
        sizes = {"bad": np.full((16, 16), np.inf, np.float32)}
    add_weights(model, **sizes)
    spiky = random_array(64, 16)
    spiky[3] = 3e4
    known = {"spiky": spiky, "i": np.ones((2, 16), np.int64), "v": random_array(4, 4, 3, 3)}
    feeds = {
        str(value.name): known.get(
            str(value.name), random_array(*[8 if not isinstance(d, int) else d for d in value.shape])
        )
        for value in model.graph.inputs
    }
    ranges = dict(calibrate(model, [feeds])) or {"unused": ActivationRange(0, 1, 0, 1)}
    context = Context(Capabilities("test", 23, quantization=INPUTS_ONLY), ranges=ranges)
    after, results = Pipeline((QuantizeStatic(),)).run(model, context=context)
    assert any(reason in text for text in reasons(results[0])), reasons(results[0])
    assert "QuantizeLinear" not in counts(after)


@pytest.mark.parametrize("text", [
    "g (float16[N,16] x, float16[16,16] w) => (float16[N,16] y) { h = Relu (x) y = MatMul (h, w) }",
    "g (float16[16,16] x) => (float16[16,16] y) { h = Relu (x) y = MatMul (h, x) }",
])  # fmt: skip
def test_a_half_precision_graph_stays_as_it_is_with_the_reason(text: str) -> None:
    model = graph_from(text)
    if "w)" in text:
        add_weights(model, w=random_array(16, 16).astype(np.float16))
    feeds = [{"x": random_array(16, 16, seed=1).astype(np.float16)}]
    support = replace(INPUTS_ONLY, activation_matmul=True)
    after, result = quantize(model, support, feeds)
    assert "QuantizeLinear" not in counts(after)
    assert any("is float16; int8 starts from float32" in text for text in reasons(result))
    assert run_model(after, feeds)[0]["y"].dtype == np.float16


def test_a_conv_at_the_graphs_output_and_a_lonely_add_stay_in_float() -> None:
    text = """g (float[N,4,4,4] x, float[8,4,3,3] w) => (float[N,8,2,2] y, float[N,4,4,4] z) {
        y = Conv (x, w) s = Add (x, x) z = Tanh (s)
    }"""
    after, result = quantize(
        add_weights(graph_from(text), w=random_array(8, 4, 3, 3)), CHAINED, [{"x": random_array(2, 4, 4, 4)}]
    )
    assert "QuantizeLinear" not in counts(after)
    assert any("is a graph output" in text for text in reasons(result))
    assert any("no int8 operator reads its result" in text for text in reasons(result))


def test_no_ranges_and_an_old_opset_are_usage_errors() -> None:
    capabilities = Capabilities("test", 23, quantization=CHAINED)
    with pytest.raises(UsageError, match="needs calibrated ranges"):
        Pipeline((QuantizeStatic(),)).run(cnn(), context=Context(capabilities))
    old = graph_from("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }", opset=11)
    ranges = {"x": ActivationRange(0, 1, 0, 1)}
    with pytest.raises(UsageError, match="needs 13"):
        Pipeline((QuantizeStatic(),)).run(old, context=Context(capabilities, ranges=ranges))


PARSE = """
import sys, tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(logger).create_network(0)
parser = trt.OnnxParser(network, logger)
if not parser.parse_from_file(sys.argv[1]):
    sys.exit("; ".join(parser.get_error(index).desc() for index in range(parser.num_errors)))
"""


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize(("support", "is_taken"), [(SYMMETRIC, True), (CHAINED, False)], ids=["symmetric", "chained"])
def test_tensorrts_parser_takes_the_symmetric_scheme_only(
    support: QuantizationSupport, is_taken: bool, tmp_path: Path
) -> None:
    after, _ = quantize(cnn(), support, images())
    save_model(after, tmp_path / "m.onnx")
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(tmp_path / "m.onnx")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode == 0) == is_taken, done.stderr[-800:]


@pytest.mark.parametrize("support", [CHAINED, INPUTS_ONLY])
def test_an_operator_kept_by_name_stays_in_float_and_says_why(support: QuantizationSupport) -> None:
    model, feeds = cnn(), images()
    kept = node_label(next(node for node in model.graph if node.op_type == "Gemm"))
    plain, _ = quantize(model, support, feeds)
    after, result = quantize(model, support, feeds, keep=(kept,))
    assert "kept by request" in reasons(result)
    assert kept not in {event.node for event in result.applied}
    gemm = next(node for node in after.graph if node.op_type == "Gemm")
    assert gemm.inputs[1] is not None
    assert gemm.inputs[1].producer() is None
    assert counts(after)["DequantizeLinear"] < counts(plain)["DequantizeLinear"]
    assert sqnr_db(model, after, feeds) > sqnr_db(model, plain, feeds)


def test_a_kept_name_that_no_node_has_is_refused() -> None:
    with pytest.raises(UsageError, match="no node 'nowhere'"):
        quantize(cnn(), INPUTS_ONLY, images(), keep=("nowhere",))
