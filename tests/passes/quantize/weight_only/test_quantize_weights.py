"""QuantizeWeights: standard ONNX that ONNX Runtime computes as the codes say, what is shared, and every refusal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Budget, Context, PassResult
from passes.capabilities import PORTABLE, Capabilities, WeightOnlySupport
from passes.errors import UsageError
from passes.execution import run_model
from passes.parse import pipeline_from_text
from passes.pipeline import Pipeline
from passes.quantize.moments import second_moments
from passes.quantize.weight_only.quantize_weights import QuantizeWeights
from passes.serialization import load_model, save_model
from tests.support.rewriting import add_weights, counts, graph_from, random_array, reasons

WIDE = QuantizeWeights(group=32, head=4)


def quantize(
    model: ir.Model, step: QuantizeWeights = WIDE, *, capabilities: Capabilities = PORTABLE, limit: int | None = None
) -> tuple[ir.Model, PassResult]:
    after, (result,) = Pipeline((step,)).run(model, context=Context(capabilities, Budget(limit)))
    return after, result


def product(body: str = "y = MatMul(x, w)", *, rows: int = 64, columns: int = 48, dtype: str = "float") -> ir.Model:
    shape = f"{columns},{rows}" if "transB" in body or "Transpose" in body else f"{rows},{columns}"
    model = graph_from(f"g ({dtype}[B,{rows}] x, {dtype}[{shape}] w) => ({dtype}[B,N] y) {{ {body} }}")
    kind = np.float32 if dtype == "float" else np.float16
    return add_weights(model, w=random_array(*map(int, shape.split(","))).astype(kind))


def run(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    (found,) = run_model(model, (feeds,))
    return dict(found)


def sqnr_db(model: ir.Model, after: ir.Model, feeds: Mapping[str, np.ndarray]) -> float:
    old, new = run(model, feeds), run(after, feeds)
    error = sum(float(np.square(old[name].astype(float) - new[name]).sum()) for name in old)
    return 10 * np.log10(sum(float(np.square(value.astype(float)).sum()) for value in old.values()) / error)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 16, 32])
@pytest.mark.parametrize(
    "body", ["y = MatMul(x, w)", "y = Gemm(x, w)", "y = Gemm <transB=1> (x, w)", "t = Transpose(w) y = MatMul(x, t)"]
)
def test_onnxruntime_computes_with_the_codes(body: str, group: int, symmetric: bool, bits: int) -> None:
    model = product(body)
    step = QuantizeWeights(bits=bits, head=bits, group=group, symmetric=symmetric)
    after, result = quantize(model, step)
    assert [event.node for event in result.applied] != []
    node = next(node for node in after.graph if node.op_type == "DequantizeLinear")
    assert node.inputs[0] is not None
    sign = "" if symmetric else "U"
    assert node.inputs[0].dtype == ir.DataType[f"{sign}INT{bits}"]
    assert len(node.inputs) == (2 if symmetric else 3)
    assert "w" not in after.graph.initializers
    assert sqnr_db(model, after, {"x": random_array(5, 64, seed=1)}) > (14 if bits == 4 else 38)


def test_half_precision_weights_get_half_precision_scales() -> None:
    model = product(dtype="float16")
    after, _ = quantize(model)
    node = next(node for node in after.graph if node.op_type == "DequantizeLinear")
    assert node.inputs[1] is not None
    assert node.inputs[1].dtype == ir.DataType.FLOAT16
    assert sqnr_db(model, after, {"x": random_array(5, 64).astype(np.float16)}) > 14


@pytest.mark.parametrize(("rows", "columns"), [(64, 33), (96, 17), (65, 31), (2048, 1)])
def test_odd_sizes(rows: int, columns: int) -> None:
    model = product(rows=rows, columns=columns)
    after, _ = quantize(model)
    assert sqnr_db(model, after, {"x": random_array(3, rows, seed=1)}) > 14


def test_a_weight_in_panels_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    import passes.quantize.weight_only.reading as reading

    texts = []
    save_model(product(), tmp_path / "model.onnx")
    for size in (reading.PANEL_BYTES, 4 * 64 * 7):
        monkeypatch.setattr(reading.panels, "__kwdefaults__", {"panel_bytes": size})
        for source in (product(), load_model(tmp_path / "model.onnx")):
            after, _ = quantize(source)
            texts.append(ir.to_onnx_text(after))
    assert len(set(texts)) == 1


TIED = """g (int64[B,S] i) => (float[B,S,80] y) {
    h = Gather(w, i)
    n = Tanh(h)
    t = Transpose <perm=[1,0]> (w)
    y = MatMul(n, t)
}"""


def tied() -> ir.Model:
    model = graph_from(TIED.replace("(int64[B,S] i)", "(int64[B,S] i, float[80,64] w)"))
    return add_weights(model, w=random_array(80, 64))


def test_tied_embeddings_are_stored_once() -> None:
    after, result = quantize(tied(), QuantizeWeights(group=32))
    assert counts(after) == {"DequantizeLinear": 1, "Gather": 1, "Tanh": 1, "Transpose": 1, "MatMul": 1}
    assert len(result.applied) == 1
    assert sorted(after.graph.initializers) == ["w_codes", "w_scales", "w_zero_points"]
    assert sqnr_db(tied(), after, {"i": np.array([[1, 79, 3]])}) > 35


def test_tied_embeddings_stay_float_where_the_runtime_has_no_integer_table() -> None:
    """Else both the float table and the codes of the product would be stored."""
    without = replace(PORTABLE, name="plain", weight_only=WeightOnlySupport(embedding_bits=frozenset()))
    after, result = quantize(tied(), capabilities=without)
    assert not result.applied
    assert "w" in after.graph.initializers
    assert "plain keeps no table of 4-bit codes, and it is read as one" in reasons(result)


def test_a_weight_of_two_products_is_stored_once() -> None:
    model = graph_from("g (float[B,64] x, float[64,64] w) => (float[B,64] y) { h = MatMul(x, w) y = MatMul(h, w) }")
    after, result = quantize(add_weights(model, w=random_array(64, 64)))
    assert counts(after)["DequantizeLinear"] == 1
    assert len(result.applied) == 1


def test_last_products_and_tables_have_bits_of_their_own() -> None:
    model = graph_from(
        """g (int64[S] i, float[80,64] e, float[64,64] a, float[64,32] b) => (float[S,32] y) {
            x = Gather(e, i)
            h = MatMul(x, a)
            y = MatMul(h, b)
        }"""
    )
    add_weights(model, e=random_array(80, 64), a=random_array(64, 64), b=random_array(64, 32))
    after, _ = quantize(model, QuantizeWeights(group=32, head=0, embeddings=8))
    kinds = {name: str(value.dtype) for name, value in after.graph.initializers.items() if "codes" in name}
    assert kinds == {"e_codes": "UINT8", "a_codes": "UINT4"}
    assert "b" in after.graph.initializers


def test_a_smaller_group_takes_the_place_of_one_that_does_not_divide() -> None:
    after, result = quantize(product(rows=96), QuantizeWeights(group=64, head=4))
    assert [event.rule for event in result.applied] == ["int4 group 32 instead of 64, which does not divide 96"]
    node = next(node for node in after.graph if node.op_type == "DequantizeLinear")
    assert node.attributes.get_int("block_size", 0) == 32
    _, result = quantize(product(rows=90), QuantizeWeights(group=64, head=4))
    assert [event.rule for event in result.applied] == ["int4 per channel instead of 64, which does not divide 90"]


@pytest.mark.parametrize(
    ("declared", "body", "reason"),
    [
        ("float[8,8] w", "y = MatMul(x, w)", "has only 64 elements"),
        ("float[2,64,64] w", "y = MatMul(x, w)", "has rank 3, not 2"),
        ("float[64,64] w", "y = MatMul(w, x)", "its constant is on the left"),
        ("float[64,64] w", "c = Identity(w) y = MatMul(x, c)", "its weight is made by Identity"),
        ("float[64,64] w", "a = MatMul(x, w) y = Add(a, w)", "is also read by Add"),
        ("float[64,64] w", "a = MatMul(x, w) y = Gemm <transB=1> (a, w)", "is summed over along both axes"),
        ("float[64,64] w", "t = Transpose <perm=[0,1]> (w) y = MatMul(x, t)", "its weight is transposed by"),
        ("double[64,64] w", "d = Cast <to=11> (x) p = MatMul(d, w) y = Cast <to=1> (p)", "is double, not float"),
        ("float[64,64] w", "i = Constant <value_ints=[0]> () y = Gather <axis=1> (w, i)", "it takes columns of 'w'"),
    ],
)
def test_refusals(declared: str, body: str, reason: str) -> None:
    size = int(declared.split("[")[1].split("]")[0].split(",")[-1])
    model = graph_from(f"g (float[{size},{size}] x, {declared}) => (float y) {{ {body} }}")
    shape = tuple(map(int, declared.split("[")[1].split("]")[0].split(",")))
    kind = np.float64 if declared.startswith("double") else np.float32
    after, result = quantize(add_weights(model, w=random_array(*shape).astype(kind)))
    assert not result.applied
    assert any(reason in text for text in reasons(result)), reasons(result)
    assert counts(after) == counts(model)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -3e38])
def test_a_weight_that_is_not_finite_is_refused(bad: float) -> None:
    model = product()
    array = random_array(64, 48)
    array[63, 47] = bad
    model.graph.initializers["w"].const_value = ir.Tensor(array, name="w")
    after, result = quantize(model)
    assert not result.applied
    assert reasons(result) == ["its weight 'w' has entries that are not finite, or beyond 1e+30"]
    assert counts(after) == {"MatMul": 1}


def test_a_weight_that_the_caller_may_override_is_refused() -> None:
    model = graph_from("g (float[B,64] x, float[64,64] w) => (float[B,64] y) { y = MatMul(x, w) }")
    value = model.graph.inputs[1]
    value.const_value = ir.Tensor(random_array(64, 64), name="w")
    model.graph.register_initializer(value)
    _, result = quantize(model)
    assert reasons(result) == ["its weight 'w' is an input of the graph"]


def test_a_weight_that_is_an_output_is_refused() -> None:
    model = product()
    model.graph.outputs.append(model.graph.initializers["w"])
    _, result = quantize(model)
    assert reasons(result) == ["its weight 'w' is an output of the graph"]


def test_products_of_activations_are_no_near_match() -> None:
    model = graph_from("g (float[B,64,64] x, float[B,64,64] z) => (float[B,64,64] y) { y = MatMul(x, z) }")
    _, result = quantize(model)
    assert not result.applied
    assert not result.refused


@pytest.mark.parametrize(
    ("support", "step", "reason"),
    [
        (WeightOnlySupport(bits=frozenset({8})), WIDE, "plain keeps no weights of 4 bits"),
        (WeightOnlySupport(zero_points=False), replace(WIDE, symmetric=False), "plain takes no zero points"),
    ],
)
def test_what_the_runtime_lacks_is_refused(support: WeightOnlySupport, step: QuantizeWeights, reason: str) -> None:
    _, result = quantize(product(), step, capabilities=replace(PORTABLE, name="plain", weight_only=support))
    assert not result.applied
    assert reasons(result) == [reason]


def test_symmetric_by_default_where_the_runtime_has_no_zero_points() -> None:
    plain = replace(PORTABLE, weight_only=WeightOnlySupport(zero_points=False))
    after, _ = quantize(product(), capabilities=plain)
    assert sorted(after.graph.initializers) == ["w_codes", "w_scales"]


def test_an_older_opset_is_an_error() -> None:
    model = graph_from("g (float[B,64] x) => (float[B,64] y) { y = Relu(x) }", opset=20)
    with pytest.raises(UsageError, match="opset 20"):
        quantize(model)


def test_the_limit_stops_before_the_next_weight() -> None:
    model = graph_from(
        "g (float[B,64] x, float[64,64] a, float[64,64] b) => (float[B,64] y) { h = MatMul(x, a) y = MatMul(h, b) }"
    )
    add_weights(model, a=random_array(64, 64), b=random_array(64, 64, seed=1))
    after, result = quantize(model, limit=1)
    assert len(result.applied) == 1
    assert sorted(after.graph.initializers) == ["a_codes", "a_scales", "a_zero_points", "b"]


def test_a_second_run_changes_nothing() -> None:
    after, _ = quantize(product())
    _, second = quantize(after)
    assert not second.applied


def test_codes_outlive_the_pass_and_are_saved(tmp_path) -> None:
    after, _ = quantize(product(rows=128, columns=128))
    save_model(after, tmp_path / "model.onnx")
    feeds = {"x": random_array(2, 128)}
    again = load_model(tmp_path / "model.onnx")
    for name, value in run(after, feeds).items():
        np.testing.assert_array_equal(value, run(again, feeds)[name])
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size < 128 * 128 + 16384  # codes of half a byte, scales and zero points, at multiples of 4096


@pytest.mark.parametrize(
    "text",
    [
        "quantize-weights{bits=3}",
        "quantize-weights{group=24}",
        "quantize-weights{method=best}",
        "quantize-weights{head=2}",
    ],
)
def test_an_unknown_option_is_an_error(text: str) -> None:
    with pytest.raises(UsageError):
        pipeline_from_text(text)


def test_text_round_trips() -> None:
    text = "quantize-weights{bits=8,group=32,symmetric=true,head=0}"
    assert str(pipeline_from_text(text)) == text


TIED_HEAD = """g (int64[N] i, float[64,64] a, float[64,64] b) => (float[N,64] y) {
    x = Gather (a, i) f = MatMul (x, b) h = Relu (f) t = Transpose <perm = [1, 0]> (a) y = MatMul (h, t)
}"""
TWICE = """g (float[N,64] x, float[64,64] a, float[64,64] b) => (float[N,64] y) {
    f = MatMul (x, a) h = Relu (f) k = MatMul (h, b) l = Relu (k) y = MatMul (l, a)
}"""
INSIDE = """g (float[N,64] x, float[64,64] a, float[64,64] b, bool c) => (float[N,64] y) {
    f = MatMul (x, a)
    y = If (c) <then_branch = t () => (float[N,64] q) { q = MatMul (f, b) },
                else_branch = e () => (float[N,64] r) { r = Relu (f) }>
}"""


@pytest.mark.parametrize(
    ("text", "first", "rest"),
    [
        (TIED_HEAD, {"i": np.arange(8)}, ""),
        (TWICE, {"x": random_array(8, 64)}, ""),
        (INSIDE, {"x": random_array(8, 64), "c": np.array(True)}, "to nearest, without statistics of 'f'"),
    ],
    ids=["tied", "twice", "inside"],
)
def test_gptq_takes_shared_weights_and_those_that_samples_tell_nothing_of(
    text: str, first: dict[str, np.ndarray], rest: str
) -> None:
    model = add_weights(graph_from(text), a=random_array(64, 64, seed=1), b=random_array(64, 64, seed=2))
    moments = second_moments(model, [first])
    step = QuantizeWeights(method="gptq", head=8, group=32)
    after, (result,) = Pipeline((step,)).run(model, context=Context(moments=moments))
    assert len(result.applied) == 2
    assert any(rest in event.rule for event in result.applied)
    assert ("to nearest" in str(result.applied)) == bool(rest)
    old, new = (run_model(each, (first,))[0]["y"] for each in (model, after))
    assert np.square(old - new).sum() < 0.03 * np.square(old).sum()


def test_gptq_without_any_samples_is_an_error() -> None:
    model = add_weights(graph_from(TWICE), a=random_array(64, 64), b=random_array(64, 64))
    with pytest.raises(UsageError, match="needs samples"):
        Pipeline((QuantizeWeights(method="gptq"),)).run(model)


def test_a_weight_that_a_branch_reads_and_a_transpose_around_it_is_refused() -> None:
    text = """g (float[N,64] x, float[64,64] w, bool c, int64[N] i) => (float[N,64] y) {
        t = Transpose <perm = [1, 0]> (w)
        y = If (c) <then_branch = a () => (float[N,64] q) { g = Gather (w, i) q = MatMul (g, t) },
                    else_branch = b () => (float[N,64] r) { r = Relu (x) }>
    }"""
    model = add_weights(graph_from(text), w=random_array(64, 64))
    after, result = quantize(model)
    assert counts(after) == counts(model)
    assert reasons(result) == ["its weight 'w' is read in several graphs"]
