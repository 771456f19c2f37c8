"""The standard operators that fusion raises to, on every target that runs here, against onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from passes.base import Context
from targets.base import BuildOptions, DimRange
from targets.registry import BUILT_IN, get_target

SIZES = {"b": 2, "s": 5, "t": 7, "p": 16}
OPTIONS = BuildOptions(dims={name: DimRange(1, size, size) for name, size in SIZES.items()})
TOLERANCE = 1e-4  # absolute; inputs are of order 1 and sums have under 40 terms

QUERIES = "float[b, s, 32] q, float[b, t, 32] k, float[b, t, 32] v"
HEADS = "float[b, 4, s, 8] q, float[b, 2, t, 8] k, float[b, 2, t, 8] v"
OUT, HEADS_OUT = "float[b, s, 32] y", "float[b, 4, s, 8] y"
THREE = "q_num_heads = 4, kv_num_heads = 4"

CASES: dict[str, tuple[str, str, str]] = {
    "attention": (QUERIES, OUT, f"y = Attention <{THREE}> (q, k, v)"),
    "attention-scale": (QUERIES, OUT, f"y = Attention <{THREE}, scale = 0.3> (q, k, v)"),
    "attention-causal": (QUERIES, OUT, f"y = Attention <{THREE}, is_causal = 1> (q, k, v)"),
    "attention-mask": (f"{QUERIES}, float[b, 1, s, t] m", OUT, f"y = Attention <{THREE}> (q, k, v, m)"),
    "attention-mask-of-one-row": (f"{QUERIES}, float[b, 1, 1, t] m", OUT, f"y = Attention <{THREE}> (q, k, v, m)"),
    "attention-bool-mask": (f"{QUERIES}, bool[b, 1, s, t] m", OUT, f"y = Attention <{THREE}> (q, k, v, m)"),
    "attention-heads": (HEADS, HEADS_OUT, "y = Attention (q, k, v)"),
    "rotary": (
        "float[b, 4, s, 8] x, float[b, s, 4] c, float[b, s, 4] d",
        "float[b, 4, s, 8] y",
        "y = RotaryEmbedding (x, c, d)",
    ),
    "rotary-cache-for-all": (
        "float[b, 4, s, 8] x, float[1, s, 4] c, float[1, s, 4] d",
        "float[b, 4, s, 8] y",
        "y = RotaryEmbedding (x, c, d)",
    ),
    "rotary-positions": (
        "float[b, 4, s, 8] x, float[p, 4] c, float[p, 4] d, int64[b, s] i",
        "float[b, 4, s, 8] y",
        "y = RotaryEmbedding (x, c, d, i)",
    ),
    "rms": ("float[b, 3, 8] x, float[8] w", "float[b, 3, 8] y", "y = RMSNormalization <epsilon = 0.001> (x, w)"),
    "layer": (
        "float[b, 3, 8] x, float[3, 8] w, float[3, 8] o",
        "float[b, 3, 8] y",
        "y = LayerNormalization <axis = 1, epsilon = 0.001> (x, w, o)",
    ),
    "group": (
        "float[b, 4, s] x, float[4] w, float[4] o",
        "float[b, 4, s] y",
        "y = GroupNormalization <num_groups = 2> (x, w, o)",
    ),
    "gelu": ("float[b, 8] x", "float[b, 8] y", "y = Gelu (x)"),
    "gelu-tanh": ("float[b, 8] x", "float[b, 8] y", 'y = Gelu <approximate = "tanh"> (x)'),
    "lstm": (
        "float[s, b, 3] x, float[2, 20, 3] w, float[2, 20, 5] r, float[2, 40] o",
        "float[s, 2, b, 5] y",
        'y = LSTM <hidden_size = 5, direction = "bidirectional"> (x, w, r, o)',
    ),
}


def feeds_of(model: ir.Model) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def array(value: ir.Value) -> np.ndarray:
        assert value.shape is not None
        shape = [dim if isinstance(dim, int) else SIZES[str(dim.value)] for dim in value.shape]
        if value.dtype == ir.DataType.INT64:
            return random.integers(0, SIZES["p"], shape)
        if value.dtype == ir.DataType.BOOL:
            mask = random.random(shape) < 0.6
            mask[..., 0] = True  # a row that hides every key has no softmax
            return mask
        return random.standard_normal(shape).astype(np.float32)

    return {str(value.name): array(value) for value in model.graph.inputs}


def expected_from(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    return ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds))[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [name for name, _ in BUILT_IN])
def test_computes_what_the_standard_says(name: str, case: str, tmp_path: Path):
    target = get_target(name)
    readiness = target.probe()
    inputs, output, body = CASES[case]
    text = f'<ir_version: 10, opset_import: ["" : 23]>\ng ({inputs}) => ({output}) {{ {body} }}'
    model = ir.from_proto(onnx.parser.parse_model(text))
    legal, _ = target.pipeline(OPTIONS).run(model, context=Context(capabilities=target.capabilities(OPTIONS)))
    if not (readiness.can_build and readiness.can_run):
        assert readiness.reason  # the contract suite asserts how it refuses to run
        return
    assert target.blockers(legal, OPTIONS) == ()
    feeds = feeds_of(model)
    with target.open(target.build(legal, tmp_path, OPTIONS)) as runner:
        actual = runner(feeds)["y"]
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected_from(model, feeds), rtol=0, atol=TOLERANCE)
