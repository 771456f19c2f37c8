"""Planted overflow and underflow: a plain cast of everything gives infinities, NaNs or zeros, convert-fp16 does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.precision.convert_float import ConvertBf16, ConvertFp16
from passes.quantize.calibrate import calibrate
from passes.quantize.ranges import ActivationRange
from tests.support.rewriting import add_weights, graph_from, random_array, reasons

Feeds = dict[str, np.ndarray]
LOUD = {"x": random_array(3, 16, seed=1) * np.float32(1e4)}
QUIET = {"x": random_array(3, 16, seed=1)}
TOKENS = {"x": random_array(2, 4, 16, seed=1), "seen": np.array([[1, 1, 1, 0], [0, 0, 0, 0]], np.int64)}
PROJECTED = "q = MatMul (x, w) t = Transpose <perm = [0, 2, 1]> (x) s = MatMul (q, t)"


@dataclass(frozen=True)
class Planted:
    """A graph in which a plain cast to float16 fails on `feeds`."""

    text: str
    feeds: Feeds
    weights: tuple[tuple[str, tuple[int, ...]], ...] = (("w", (16, 16)),)

    def model(self) -> ir.Model:
        arrays = {name: random_array(*shape, seed=7) / np.float32(4) for name, shape in self.weights}
        return add_weights(graph_from(self.text), **arrays)


def masked(mask: str) -> str:
    return f"""g (float[B,4,16] x, int64[B,4] seen, float[16,16] w) => (float[B,4,4] y) {{
        {PROJECTED}
        one = Constant <value = float {{1.0}}> ()
        two = Constant <value_ints = [1]> ()
        least = Constant <value = float {{-3.4e38}}> ()
        {mask}
        h = Add (s, m)
        y = Softmax (h)
    }}"""


FLOAT_SEEN = "u = Unsqueeze (seen, two) f = Cast <to = 1> (u) o = Sub (one, f)"
KEEP = "u = Unsqueeze (seen, two) k = Cast <to = 9> (u) zero = Constant <value = float {0.0}> ()"
CASES = {
    "layer-norm-of-1e4": Planted(
        """g (float[N,16] x, float[16] a, float[16] b, float[16,16] w) => (float[N,16] y) {
            n = LayerNormalization (x, a, b) y = MatMul (n, w)
        }""",
        LOUD,
        (("a", (16,)), ("b", (16,)), ("w", (16, 16))),
    ),
    "rms-norm-of-1e4": Planted(
        """g (float[N,16] x, float[16] a, float[16,16] w) => (float[N,16] y) {
            n = RMSNormalization (x, a) y = MatMul (n, w)
        }""",
        LOUD,
        (("a", (16,)), ("w", (16, 16))),
    ),
    "mean-of-squares-of-1e4": Planted(
        """g (float[N,16] x, float[16,16] w) => (float[N,16] y) {
            p = Mul (x, x) axes = Constant <value_ints = [-1]> () m = ReduceMean (p, axes)
            e = Constant <value = float {1e-6}> () v = Add (m, e) r = Sqrt (v) d = Div (x, r) y = MatMul (d, w)
        }""",
        LOUD,
    ),
    "norm-of-nothing": Planted(
        """g (float[N,16] x, float[16,16] w) => (float[N,16] y) {
            axes = Constant <value_ints = [-1]> () n = ReduceL2 (x, axes) e = Constant <value = float {1e-12}> ()
            c = Max (n, e) d = Div (x, c) y = MatMul (d, w)
        }""",
        {"x": np.zeros((3, 16), np.float32)},
    ),
    "computed-mask": Planted(masked(f"{FLOAT_SEEN} m = Mul (o, least)"), TOKENS),
    "mask-of-a-where": Planted(masked(f"{KEEP} m = Where (k, zero, least)"), TOKENS),
    "mask-of-a-shape": Planted(
        masked(f"""{FLOAT_SEEN} dims = Shape (s)
            full = ConstantOfShape <value = float[1] {{-3.4e38}}> (dims) m = Mul (o, full)"""),
        TOKENS,
    ),
    "two-masks": Planted(
        masked(f"{FLOAT_SEEN} a = Mul (o, least) half = Constant <value = float {{0.5}}> () b = Mul (a, half) "
               "c = Mul (a, half) m = Add (b, c)"),
        TOKENS,
    ),
    "mask-of-1e9": Planted(
        masked(f"{FLOAT_SEEN} big = Constant <value = float {{-1e9}}> () m = Mul (o, big)"), TOKENS
    ),
    "scores-replaced": Planted(
        f"""g (float[B,4,16] x, int64[B,4] seen, float[16,16] w) => (float[B,4,4] y) {{
            {PROJECTED} two = Constant <value_ints = [1]> () u = Unsqueeze (seen, two) k = Cast <to = 9> (u)
            least = Constant <value = float {{-3.4e38}}> () h = Where (k, s, least) y = Softmax (h)
        }}""",
        TOKENS,
    ),
    "mask-as-an-input": Planted(
        f"""g (float[B,4,16] x, float[B,1,4] m, float[16,16] w) => (float[B,4,4] y) {{
            {PROJECTED} h = Add (s, m) y = Softmax (h)
        }}""",
        {"x": TOKENS["x"], "m": (1 - TOKENS["seen"][:, None].astype(np.float32)) * np.float32(-3.4e38)},
    ),
    "steep": Planted(
        "g (float[N,16] x, float[16,16] w) => (float[N,16] y) { m = MatMul (x, w) e = Exp (m) y = Log (e) }",
        {"x": QUIET["x"] * np.float32(12)},
    ),
    "positions": Planted(
        """g (float[N,16] x, int64[N,16] at, float[16,16] w) => (float[N,16] y) {
            p = Cast <to = 1> (at) many = Constant <value = float {40.0}> () a = Mul (p, many) s = Sin (a)
            m = MatMul (x, w) y = Add (m, s)
        }""",
        {"x": QUIET["x"], "at": np.arange(2000, 2048).reshape(3, 16)},
    ),
}  # fmt: skip


def plainly_cast(model: ir.Model) -> ir.Model:
    """Return a copy whose every float32 is float16, constants included, and nothing else: what a plain cast does."""
    import onnx

    proto = ir.to_proto(model)
    inner = onnx.ModelProto()
    inner.CopyFrom(proto)
    graph = inner.graph
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16

    def cast(tensor: onnx.TensorProto) -> onnx.TensorProto:
        with np.errstate(over="ignore"):
            return onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)

    for index, tensor in enumerate(graph.initializer):
        if tensor.data_type == single:
            graph.initializer[index].CopyFrom(cast(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == single:
                attribute.t.CopyFrom(cast(attribute.t))
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = half
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == single:
            value.type.tensor_type.elem_type = half
    del graph.value_info[:]
    return ir.from_proto(inner)


def rounded_run(model: ir.Model, feeds: Feeds) -> np.ndarray:
    """Return what the graph gives when every float16 result is rounded to float16 (numpy, operator by operator)."""
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0], np.float32)


@pytest.mark.parametrize("name", CASES)
def test_a_plain_cast_fails_where_ours_holds(name: str) -> None:
    case = CASES[name]
    expected = run_model(case.model(), [case.feeds])[0]["y"]
    assert np.isfinite(expected).all()
    with np.errstate(over="ignore"):
        halves = {
            key: array.astype(np.float16) if array.dtype == np.float32 else array for key, array in case.feeds.items()
        }
    plain = rounded_run(plainly_cast(case.model()), halves)
    size = max(float(np.abs(expected).max()), 1e-3)
    assert not np.isfinite(plain).all() or float(np.abs(plain - expected).max()) > 0.05 * size
    after, results = Pipeline((ConvertFp16(),)).run(case.model())
    assert any(node.op_type == "MatMul" for node in after.graph)
    for ours in (run_model(after, [case.feeds])[0]["y"], rounded_run(after, case.feeds)):
        assert np.isfinite(ours).all()
        assert float(np.abs(ours - expected).max()) <= 0.02 * size
    assert len(results[0].refused) == len({event.node for event in results[0].refused})
    matmul = next(node for node in after.graph if node.op_type == "MatMul")
    assert str(matmul.outputs[0].dtype) == "FLOAT16"


def test_an_infinite_mask_stays_infinite() -> None:
    text = f"""g (float[B,4,16] x, bool[B,1,4] seen, float[16,16] w, float none) => (float[B,4,4] y) {{
        {PROJECTED} zero = Constant <value = float {{0.0}}> () m = Where (seen, zero, none)
        h = Add (s, m) e = Softmax (h) n = IsNaN (e) y = Where (n, zero, e)
    }}"""
    weight = random_array(16, 16, seed=7) / np.float32(4)
    source = add_weights(graph_from(text), w=weight, none=np.array(-np.inf, np.float32))
    feeds = {"x": TOKENS["x"], "seen": TOKENS["seen"][:, None].astype(bool)}
    after, _ = Pipeline((ConvertFp16(),)).run(source)
    before, ours = (run_model(model, [feeds])[0]["y"] for model in (source, after))
    assert not before[1].any()
    assert not ours[1].any()  # a finite mask would give 1/4 to each hidden key
    assert np.abs(before - ours).max() < 5e-3


def test_values_too_small_for_float16_stay_float32_where_samples_show_it() -> None:
    text = """g (float[N,16] x, float[16,16] w, float[16,16] u) => (float[N,16] y) {
        a = MatMul (x, w) r = Relu (a) b = MatMul (r, u)
        thousand = Constant <value = float {4096.0}> () y = Mul (b, thousand)
    }"""
    tiny, back = random_array(16, 16, seed=2) * np.float32(2e-4), random_array(16, 16, seed=3)
    source = add_weights(graph_from(text), w=tiny, u=back)
    feeds = {"x": QUIET["x"] * np.float32(1e-3)}
    expected = run_model(source, [feeds])[0]["y"]
    blind, _ = Pipeline((ConvertFp16(),)).run(source)
    seeing, results = Pipeline((ConvertFp16(),)).run(source, context=Context(ranges=calibrate(source, [feeds])))

    def error(model: ir.Model) -> float:
        return float(np.abs(rounded_run(model, feeds) - expected).max() / np.abs(expected).max())

    assert error(blind) > 0.02
    assert error(seeing) < 0.002
    assert any("typically" in reason and "6.1e-05" in reason for reason in reasons(results[0]))


def test_sums_that_may_overflow_on_the_way_stay_float32() -> None:
    text = "g (float[N,4096] x, float[4096,4] w) => (float[N,4] y) { y = MatMul (x, w) }"
    source = add_weights(graph_from(text), w=random_array(4096, 4))
    for peak, kept in ((1e3, True), (1.0, False)):
        seen = {"x": ActivationRange(-peak, peak, -peak, peak, typical=peak / 2)}
        _, results = Pipeline((ConvertFp16(),)).run(source, context=Context(ranges=seen))
        assert ("sums of 4096 terms" in " ".join(reasons(results[0]))) is kept
        assert bool(results[0].applied) is not kept


def test_bfloat16_has_the_range_and_keeps_only_what_loses_digits() -> None:
    case = CASES["mean-of-squares-of-1e4"]
    _, results = Pipeline((ConvertBf16(),)).run(case.model())
    assert not any("squares its input" in reason for reason in reasons(results[0]))
