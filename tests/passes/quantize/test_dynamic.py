"""quantize-dynamic: which products run on integers, in which form, how well, and what stays in float."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.quantize.calibrate import calibrate
from passes.quantize.dynamic import QuantizeDynamic
from passes.quantize.ranges import ActivationRange
from targets.onnxruntime.capabilities import provider_capabilities
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

CPU = provider_capabilities("CPUExecutionProvider")
ONE = "g (float[B,S,32] x, float[32,48] w, float[48] b) => (float[B,S,48] y) { m = MatMul (x, w) y = Add (m, b) }"
THREE = """g (float[B,S,32] x, float[32,48] u, float[32,48] v, float[32,48] w) => (float[B,S,48] y) {
    a = MatMul (x, u) b = MatMul (x, v) c = MatMul (x, w) d = Mul (a, b) y = Add (d, c)
}"""
FEEDS = [{"x": random_array(2, 5, 32, seed=3)}]


def one(**arrays: np.ndarray) -> ir.Model:
    return add_weights(graph_from(ONE), **({"w": random_array(32, 48), "b": random_array(48, seed=1)} | arrays))


def three() -> ir.Model:
    return add_weights(graph_from(THREE), **{name: random_array(32, 48, seed=i) for i, name in enumerate("uvw")})


def quantize(
    model: ir.Model,
    capabilities: Capabilities = CPU,
    ranges: dict[str, ActivationRange] | None = None,
    **options: object,
) -> tuple[ir.Model, PassResult]:
    context = Context(capabilities, ranges=ranges or {})
    after, results = Pipeline((QuantizeDynamic(**options),)).run(model, context=context)  # type: ignore[arg-type]
    return after, results[0]


def sqnr_db(model: ir.Model, after: ir.Model, feeds: list[dict[str, np.ndarray]] = FEEDS) -> float:
    before, now = (np.concatenate([out["y"].ravel() for out in run_model(each, feeds)]) for each in (model, after))
    return float(10 * np.log10(np.square(before).sum() / np.square(before - now).sum()))


def test_one_reader_becomes_one_operator_with_the_bias_inside() -> None:
    after, result = quantize(one())
    assert counts(after) == {"DynamicQuantizeMatMul": 1}
    assert len(result.applied) == 1
    assert set(after.graph.initializers) == {"w_quantized", "w_scale", "y_bias"}
    assert sqnr_db(one(), after) > 35


def test_several_readers_share_one_quantized_activation() -> None:
    after, _ = quantize(three())
    assert counts(after) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 3, "Mul": 1, "Add": 1}
    assert sqnr_db(three(), after) > 30


def test_without_the_runtimes_own_operators_it_is_the_standard_form() -> None:
    for model in (one(), three()):
        after, _ = quantize(model, PORTABLE)
        assert not any(node.domain for node in after.graph)
        assert counts(after)["MatMulInteger"] == len([node for node in model.graph if node.op_type == "MatMul"])
        assert sqnr_db(model, after) > 30


@pytest.mark.parametrize("capabilities", [CPU, PORTABLE], ids=["own", "standard"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_gemm_keeps_its_transpose_alpha_and_beta(capabilities: Capabilities, has_bias: bool) -> None:
    bias = ", b" if has_bias else ""
    text = f"""g (float[N,32] x, float[48,32] w, float[48] b) => (float[N,48] y) {{
        y = Gemm <transB = 1, alpha = 0.5, beta = 3.0> (x, w{bias})
    }}"""
    source = add_weights(graph_from(text), w=random_array(48, 32), b=random_array(48, seed=1))
    after, _ = quantize(source, capabilities)
    assert "Gemm" not in counts(after)
    assert sqnr_db(source, after, [{"x": random_array(5, 32, seed=3)}]) > 35


def test_a_scale_for_each_column_is_better_than_one_for_all() -> None:
    loud = random_array(32, 48) * np.geomspace(0.01, 1, 48, dtype=np.float32)
    channel, tensor = (quantize(one(w=loud), granularity=kind)[0] for kind in ("channel", "tensor"))
    quiet = np.s_[..., :16]

    def error(model: ir.Model) -> float:
        before, now = (run_model(each, FEEDS)[0]["y"][quiet] for each in (one(w=loud), model))
        return float(np.square(before - now).mean())

    assert error(channel) < 0.1 * error(tensor)


NORMED = """g (float[B,S,32] x, float[32] g, float[32] c, float[32,48] w) => (float[B,S,48] y) {
    n = LayerNormalization (x, g, c) y = MatMul (n, w)
}"""


def normed(text: str = NORMED) -> ir.Model:
    gain = np.ones(32, np.float32)
    gain[[3, 17]] = 60
    return add_weights(graph_from(text), g=gain, c=random_array(32, seed=5), w=random_array(32, 48))


def test_outlier_channels_of_a_norm_are_evened_out_without_data_and_without_a_node() -> None:
    rough, smooth = (quantize(normed(), smooth=smooth)[0] for smooth in (False, True))
    assert counts(rough) == counts(smooth) == {"LayerNormalization": 1, "DynamicQuantizeMatMul": 1}
    weights = normed()
    assert sqnr_db(weights, smooth) > sqnr_db(weights, rough) + 1


def test_a_norm_that_others_read_is_left_and_a_mul_evens_out() -> None:
    text = NORMED.replace("float[B,S,48] y)", "float[B,S,48] y, float[B,S,32] n)")
    after, _ = quantize(normed(text))
    assert counts(after) == {"LayerNormalization": 1, "Mul": 1, "DynamicQuantizeMatMul": 1}
    assert sqnr_db(normed(text), after) > sqnr_db(normed(text), quantize(normed(text), smooth=False)[0]) + 1


@pytest.mark.parametrize("capabilities", [CPU, PORTABLE], ids=["own", "standard"])
@pytest.mark.parametrize("function", ["Gelu (m)", "Relu (m)", "Mul (m, m)"])
def test_a_loud_token_behind_an_activation_leaves_the_others_their_codes(
    capabilities: Capabilities, function: str
) -> None:
    text = f"""g (float[B,S,32] x, float[32,48] w, float[48] b) => (float[B,S,48] y) {{
        t = Identity (x) m = Add (t, t) a = {function} p = MatMul (a, w) y = Add (p, b)
    }}"""
    arrays = {"w": random_array(32, 48), "b": random_array(48, seed=1)}
    source = add_weights(graph_from(text), **arrays)
    x = random_array(2, 6, 32, seed=3)
    x[0, 0] *= 50
    quiet = np.s_[1:]

    def error(by_row: bool) -> float:
        after, _ = quantize(source, capabilities, by_row=by_row)
        assert ("Div" in counts(after)) is by_row
        before, now = (run_model(each, [{"x": x}])[0]["y"][quiet] for each in (source, after))
        return float(np.square(before - now).mean())

    assert error(True) < 0.5 * error(False)


def test_calibrated_ranges_even_out_what_no_norm_tells() -> None:
    loud = np.ones(32, np.float32)
    loud[[2, 9]] = 80
    feeds = [{"x": random_array(8, 5, 32, seed=seed) * loud} for seed in range(4)]
    ranges = dict(calibrate(one(), feeds))
    blind, seeing = quantize(one())[0], quantize(one(), ranges=ranges)[0]
    assert "Mul" in counts(seeing)
    assert sqnr_db(one(), seeing, feeds) > sqnr_db(one(), blind, feeds) + 1


def test_the_mean_shift_of_rounded_weights_is_taken_off_the_bias() -> None:
    text = """g (float[B,S,32] x, float[32] g, float[32] c, float[32,48] w, float[48] b) => (float[B,S,48] y) {
        n = LayerNormalization (x, g, c) m = MatMul (n, w) y = Add (m, b)
    }"""
    source = add_weights(
        graph_from(text),
        g=np.full(32, 0.1, np.float32),
        c=np.full(32, 10, np.float32),
        w=random_array(32, 48),
        b=random_array(48, seed=1),
    )

    def shift(correct: bool) -> float:
        after, _ = quantize(source, correct_bias=correct, smooth=False)
        before, now = (run_model(each, FEEDS)[0]["y"] for each in (source, after))
        return float(np.abs((now - before).reshape(-1, 48).mean(axis=0)).mean())

    assert shift(True) < 0.5 * shift(False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", "both operands are computed"),
        ("y = MatMul (w, x)", "not a right operand"),
        ("y = MatMul (x, s)", "has only 32 elements"),
        ("y = MatMul (x, n)", "don't pay for quantizing 'x'"),
    ],
)
def test_what_stays_in_float_and_why(body: str, reason: str) -> None:
    text = f"""g (float[B,32,32] x, float[32,32] w, float[32,1] s, float[32,4] n) => (float[B,A,C] y) {{ {body} }}"""
    arrays = {"w": random_array(32, 32), "s": random_array(32, 1), "n": random_array(32, 4)}
    after, result = quantize(add_weights(graph_from(text), **arrays))
    assert counts(after).get("MatMul") == 1
    assert any(reason in each for each in reasons(result))


def test_products_in_subgraphs_are_quantized_there() -> None:
    text = """g (float[2,32] x, float[32,48] w, bool p) => (float[2,48] y) {
        y = If (p) <then_branch = t () => (float[2,48] b) { b = MatMul (x, w) },
                    else_branch = e () => (float[2,48] c) { d = MatMul (x, w) c = Neg (d) }>
    }"""
    source = add_weights(graph_from(text), w=random_array(32, 48))
    after, _ = quantize(source)
    assert counts(after)["DynamicQuantizeMatMul"] == 2
    for chosen in (True, False):
        assert sqnr_db(source, after, [{"x": random_array(2, 32, seed=3), "p": np.array(chosen)}]) > 35


LSTM = """g (float[T,B,24] x, float[2,64,24] w, float[2,64,16] r, float[2,128] b)
       => (float[T,2,B,16] y, float[2,B,16] h) {
    y, h = LSTM <hidden_size = 16, direction = "bidirectional"> (x, w, r, b)
}"""


def lstm(scale: float = 0.3) -> ir.Model:
    return add_weights(
        graph_from(LSTM),
        w=random_array(2, 64, 24) * np.float32(scale),
        r=random_array(2, 64, 16, seed=1) * np.float32(scale),
        b=random_array(2, 128, seed=2) * np.float32(scale),
    )


def test_an_lstm_runs_on_integers_where_it_keeps_its_accuracy() -> None:
    after, result = quantize(lstm())
    assert counts(after) == {"DynamicQuantizeLSTM": 1}
    assert [value.name for value in after.graph.outputs] == ["y", "h"]
    feeds = [{"x": random_array(12, 3, 24, seed=3)}]
    assert sqnr_db(lstm(), after, feeds) > 25
    assert len(result.applied) == 1


def test_an_lstm_that_loses_its_accuracy_stays_in_float_and_says_what_it_measured() -> None:
    after, result = quantize(lstm(), least_recurrent_sqnr_db=80.0)
    assert counts(after) == {"LSTM": 1}
    assert any("alone on random data it keeps" in reason for reason in reasons(result))
    after, result = quantize(lstm(), PORTABLE)
    assert counts(after) == {"LSTM": 1}


def test_a_limit_stops_after_so_many_products() -> None:
    after, _ = Pipeline((QuantizeDynamic(),)).run(three(), context=Context(CPU), limit=1)
    assert counts(after)["MatMul"] == 2
    assert sqnr_db(three(), after) > 30


@pytest.mark.parametrize("capabilities", [CPU, PORTABLE])
@pytest.mark.parametrize("second", ["y = MatMul (t, v)", "u = Gemm <alpha = 3.0> (t, v) y = Add (u, t)"])
def test_a_product_of_a_product_reads_the_one_written_anew(second: str, capabilities: Capabilities) -> None:
    """As in a matrix of low rank, x @ A @ B; a Mul that the pass itself has written is no gate."""
    text = f"g (float[B,32] x, float[32,32] w, float[32,32] v) => (float[B,32] y) {{ t = MatMul (x, w) {second} }}"
    model = add_weights(graph_from(text), w=random_array(32, 32), v=random_array(32, 32, seed=1))
    after, result = quantize(model, capabilities)
    assert len(result.applied) == 2
    assert "ReduceMax" not in counts(after)
    assert sqnr_db(model, after, [{"x": random_array(5, 32, seed=3)}]) > 30
