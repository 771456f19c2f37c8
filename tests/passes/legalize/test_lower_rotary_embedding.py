"""LowerRotaryEmbedding: caches for the whole batch, and what stays standard."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.base import Context
from passes.expand.materialize_broadcasts import MaterializeBroadcasts
from passes.legalize.lower_rotary_embedding import LowerRotaryEmbedding
from passes.pipeline import Pipeline
from tests.support.contrib import CONTRIB, attributes, forms, refused
from tests.support.rewriting import graph_from, random_array, reasons


def model(x: str, cache: str = "1,S,4", options: str = "", twice: str = "") -> ir.Model:
    body = f"y = RotaryEmbedding {options} (x, c, s) {twice}"
    outputs = f"float[{x}] y" + (f", float[{x}] z" if twice else "")
    return graph_from(f"g (float[{x}] x, float[{cache}] c, float[{cache}] s) => ({outputs}) {{ {body} }}")


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    ("x", "cache", "options"),
    [
        ("B,2,S,8", "1,S,4", ""),
        ("B,H,S,8", "1,S,4", ""),
        ("B,2,S,8", "1,S,2", "rotary_embedding_dim = 4, "),
        ("B,S,16", "1,S,4", "num_heads = 2, "),
        ("B,S,16", "1,S,2", "num_heads = 2, rotary_embedding_dim = 4, "),
    ],
)
def test_a_cache_of_one_row_serves_the_batch(x: str, cache: str, options: str, interleaved: int) -> None:
    from passes.comparison import difference
    from passes.execution import run_model

    built = model(x, cache, f"<{options}interleaved = {interleaved}>")
    after, (result,) = Pipeline((LowerRotaryEmbedding(),)).run(built, context=Context(CONTRIB))
    assert forms(after) == ["Squeeze(c, first)", "Squeeze(s, first)", "RotaryEmbedding(x, first, c_rows, s_rows)"]
    assert attributes(after, "RotaryEmbedding")["interleaved"] == interleaved
    sizes = {"B": 3, "S": 5, "H": 2}
    shape = [sizes.get(part) or int(part) for part in x.split(",")]
    half = int(cache[-1])
    feed = {"x": random_array(*shape), "c": random_array(1, 5, half, seed=1), "s": random_array(1, 5, half, seed=2)}
    # ONNX Runtime's standard kernel refuses the short caches: it gets them expanded.
    full = Pipeline((MaterializeBroadcasts(),)).run(built)[0]
    for old, new in zip(run_model(full, (feed,)), run_model(after, (feed,)), strict=True):
        assert difference(old, new, relative=1e-4, absolute=1e-5) == ""
    again, (second,) = Pipeline((LowerRotaryEmbedding(),)).run(after, context=Context(CONTRIB))
    assert len(result.applied) == 1
    assert not second.applied
    assert forms(again) == forms(after)


def test_caches_are_squeezed_once() -> None:
    built = model("B,2,S,8", twice="z = RotaryEmbedding (y, c, s)")
    after, _ = Pipeline((LowerRotaryEmbedding(),)).run(built, context=Context(CONTRIB))
    assert [node.op_type for node in after.graph] == ["Squeeze", "Squeeze", "RotaryEmbedding", "RotaryEmbedding"]


@pytest.mark.parametrize(("x", "cache"), [("B,2,S,8", "B,S,4"), ("1,2,S,8", "1,S,4"), ("B,2,S,8", "N,S,4")])
def test_other_caches_stay(x: str, cache: str) -> None:
    assert not refused(model(x, cache), LowerRotaryEmbedding()).refused


def test_position_ids_stay() -> None:
    built = graph_from(
        """g (float[B,2,S,8] x, float[M,4] c, float[M,4] s, int64[B,S] i) => (float[B,2,S,8] y) {
        y = RotaryEmbedding (x, c, s, i) }"""
    )
    assert not refused(built, LowerRotaryEmbedding()).refused


def test_a_cache_of_another_length_is_refused() -> None:
    assert reasons(refused(model("B,2,S,8", "1,T,4"), LowerRotaryEmbedding())) == [
        "the caches are not provably as long as the input"
    ]
