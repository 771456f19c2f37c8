"""MaterializeBroadcasts: which operands it expands, which it leaves, and that results stay."""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from passes.base import Context
from passes.expand.materialize_broadcasts import MaterializeBroadcasts
from passes.pipeline import Pipeline
from tests.support.small_models import unoptimized

PIPELINE = Pipeline((MaterializeBroadcasts(),))
HEADER = '<ir_version: 10, opset_import: ["" : 23]>'


def model_from(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(f"{HEADER}\n{text}"))


def attention(mask: str, queries: str = "b, s, 8", dtype: str = "float") -> ir.Model:
    inputs = f"float[{queries}] q, float[b, t, 8] k, float[b, t, 8] v, {dtype}[{mask}] m"
    return model_from(f"""g ({inputs}) => (float[b, s, 8] y) {{
        y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, m)
    }}""")


def rotary(cache: str) -> ir.Model:
    return model_from(f"""g (float[b, 2, s, 8] x, float[{cache}] c, float[{cache}] d) => (float[b, 2, s, 8] y) {{
        y = RotaryEmbedding (x, c, d)
    }}""")


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("model", "expanded"),
    [
        (attention("b, 1, 1, t"), 1),
        (attention("b, 2, 1, t"), 1),
        (attention("1, t"), 1),
        (attention("b, 1, n, t"), 1),
        (attention("b, 1, s, t"), 0),
        (attention("b, 1, 1, t", queries="b, 1, 8"), 0),
        (attention("4, t", queries="b, 4, 8"), 0),
        (rotary("1, s, 4"), 2),
        (rotary("n, s, 4"), 2),
        (rotary("b, s, 4"), 0),
    ],
)
def test_expands_what_is_or_may_be_short(model: ir.Model, expanded: int):
    after, (result,) = PIPELINE.run(model)
    assert len(result.applied) == expanded
    assert operators(after).count("Expand") == expanded
    assert PIPELINE.run(after)[1][0].applied == ()


def test_leaves_operands_alone_that_are_absent_or_looked_up():
    none = model_from("""g (float[b, s, 8] q) => (float[b, s, 8] y) {
        y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q)
    }""")
    indexed = model_from("""g (float[b, 2, s, 8] x, float[64, 4] c, int64[b, s] p) => (float[b, 2, s, 8] y) {
        y = RotaryEmbedding (x, c, c, p)
    }""")
    foreign = model_from("""g (float[b, 1, 1, t] m) => (float[b, 1, 1, t] y) { y = Identity (m) }""")
    for model in (none, indexed, foreign):
        assert PIPELINE.run(model)[1][0].applied == ()


def feeds_of(model: ir.Model, **sizes: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        value.name: [dim if isinstance(dim, int) else sizes[dim.value] for dim in value.shape]
        for value in model.graph.inputs
    }
    booleans = {value.name for value in model.graph.inputs if value.dtype == ir.DataType.BOOL}
    return {
        name: random.random(shape) < 0.7 if name in booleans else random.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    "model",
    [
        attention("b, 1, 1, t"),
        attention("b, 2, 1, t"),
        attention("1, t"),
        attention("b, 1, n, t"),
        attention("b, 1, 1, t", dtype="bool"),
        rotary("1, s, 4"),
    ],
)
def test_keeps_results(model: ir.Model):
    feeds = feeds_of(model, b=3, s=5, t=6, n=1)
    if "m" in feeds and feeds["m"].dtype == bool:
        feeds["m"][..., 0] = True  # a row that masks everything has no softmax
    expected = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)[0]
    actual = unoptimized(PIPELINE.run(model)[0], feeds)["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [attention("b, 1, 1, t"), rotary("1, s, 4")])
def test_is_still_needed(model: ir.Model):
    """Red when ONNX Runtime learns to broadcast these: then the pass may go."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    with pytest.raises(Exception, match=r"\[ONNXRuntimeError\]"):
        session.run(None, feeds_of(model, b=3, s=5, t=6))


def test_counts_against_the_budget():
    after, (result,) = PIPELINE.run(rotary("1, s, 4"), context=Context(), limit=1)
    assert len(result.applied) == 1
    assert operators(after).count("Expand") == 1


def test_works_inside_a_subgraph():
    model = model_from("""g (bool c, float[b, s, 8] q, float[b, 1, 1, s] m) => (float[b, s, 8] y) {
        y = If (c) <
            then_branch = t () => (float[b, s, 8] a) {
                a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, q, q, m)
            },
            else_branch = e () => (float[b, s, 8] z) { z = Identity (q) }>
    }""")
    after, (result,) = PIPELINE.run(model)
    assert len(result.applied) == 1
    random = np.random.default_rng(0)
    feeds = {
        "c": np.array(True),
        "q": random.random((2, 5, 8), np.float32),
        "m": random.random((2, 1, 1, 5), np.float32),
    }
    assert np.isfinite(unoptimized(after, feeds)["y"]).all()
