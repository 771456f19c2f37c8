from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from passes.base import Context
from passes.expand.unpack_projections import UnpackProjections
from passes.parse import pipeline_from_text
from passes.serialization import load_model, save_model
from tests.support.golden import assert_lines, assert_refused, assert_rewritten
from tests.support.rewriting import add_weights, counts, graph_from, random_array, rewrite

PASS = "unpack-projections,eliminate-dead-code"
WEIGHTS = {"w": random_array(6, 8, seed=1), "b": random_array(8, seed=2), "wide": random_array(2, 6, 8, seed=3)}


def _text(body: str, outputs: str = "float[B,S,M] p, float[B,S,N] q") -> str:
    return f"g (float[B,S,6] x, float[6,8] w, float[8] b, float[2,6,8] wide) => ({outputs}) {{ {body} }}"


def test_even_parts() -> None:
    assert_rewritten(
        _text("y = MatMul (x, w) p, q = Split <axis = -1, num_outputs = 2> (y)"),
        PASS,
        """
        w_part = float[6,4]
        w_part_1 = float[6,4]
        p = MatMul (x, w_part)
        q = MatMul (x, w_part_1)
        """,
        weights=WEIGHTS,
    )


def test_uneven_parts_with_a_bias_along_the_last_of_three_axes() -> None:
    sizes = "sizes = Constant <value_ints = [3, 5]> ()"
    assert_lines(
        _text(f"{sizes} m = MatMul (x, w) y = Add (b, m) p, q = Split <axis = 2> (y, sizes)"),
        PASS,
        """
        CHECK: w_part = float[6,3]
        CHECK-NEXT: b_part = float[3]
        CHECK-NEXT: w_part_1 = float[6,5]
        CHECK-NEXT: b_part_1 = float[5]
        CHECK-NEXT: p_product = MatMul (x, w_part)
        CHECK-NEXT: p = Add (p_product, b_part)
        CHECK-NEXT: q_product = MatMul (x, w_part_1)
        CHECK-NEXT: q = Add (q_product, b_part_1)
        CHECK-NOT: Split
        """,
        weights=WEIGHTS,
    )


def test_a_last_part_that_is_smaller() -> None:
    text = _text("y = MatMul (x, w) p, q, r = Split <axis = -1, num_outputs = 3> (y)", "float[B,S,M] p, float[B,S,N] r")
    assert_rewritten(
        text,
        PASS,
        """
        w_part = float[6,3]
        w_part_1 = float[6,2]
        p = MatMul (x, w_part)
        r = MatMul (x, w_part_1)
        """,
        weights=WEIGHTS,
    )


@pytest.mark.parametrize(
    ("body", "outputs", "reason"),
    [
        (
            "y = MatMul (x, w) p, q = Split <axis = -1, num_outputs = 2> (y) z = Neg (y)",
            ", float[B,S,8] z",
            "also feeds",
        ),
        ("y = MatMul (x, w) p, q = Split <axis = -1, num_outputs = 2> (y)", ", float[B,S,8] y", "output"),
        (
            "m = MatMul (x, w) y = Add (m, b) p, q = Split <axis = -1, num_outputs = 2> (y)",
            ", float[B,S,8] m",
            "output",
        ),
        ("y = MatMul (x, w) p, q = Split <axis = 1, num_outputs = 2> (y)", "", "the last axis"),
    ],
)
def test_what_is_refused(body: str, outputs: str, reason: str) -> None:
    text = _text(body, "float[B,P,M] p, float[B,Q,N] q" + outputs)
    feeds = {"x": random_array(2, 4, 6, seed=9)}
    assert_refused(text, "unpack-projections", reason, weights=WEIGHTS, feeds=[feeds])


def test_a_weight_of_rank_three_is_refused() -> None:
    text = "g (float[2,S,6] x, float[2,6,8] wide) => (float[2,S,M] p, float[2,S,N] q)"
    body = "{ y = MatMul (x, wide) p, q = Split <axis = -1, num_outputs = 2> (y) }"
    assert_refused(f"{text} {body}", "unpack-projections", "matrix", weights={"wide": WEIGHTS["wide"]})


def test_what_was_packed_in_the_same_run_is_given_back(tmp_path: Path) -> None:
    shared = "q_num_heads = 2, kv_num_heads = 2"
    text = f"""g (float[B,S,8] x, float[8,8] wq, float[8,8] wk, float[8,8] wv) => (float[B,S,8] y) {{
        q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv) y = Attention <{shared}> (q, k, v) }}"""
    weights = {name: random_array(8, 8, seed=index) for index, name in enumerate(("wq", "wk", "wv"))}
    model = add_weights(graph_from(text), **weights)
    packed, results = pipeline_from_text(f"pack-qkv,{PASS}").run(model, context=Context())
    assert results[0].applied
    assert results[1].applied
    save_model(packed, tmp_path / "m.onnx")
    stored = [value.const_value for value in load_model(tmp_path / "m.onnx").graph.initializers.values()]
    arrays = [tensor.numpy() for tensor in stored if tensor is not None]
    assert len(arrays) == 3
    for wanted in weights.values():
        assert any(np.array_equal(wanted, array) for array in arrays)


def test_columns_of_a_large_weight_are_read_in_blocks(tmp_path: Path) -> None:
    weight = random_array(700, 1200, seed=5)
    text = "g (float[B,700] x, float[700,1200] w) => (float[B,M] p, float[B,N] q)"
    body = "{ sizes = Constant <value_ints = [1, 1199]> () y = MatMul (x, w) p, q = Split <axis = 1> (y, sizes) }"
    save_model(add_weights(graph_from(f"{text} {body}"), w=weight), tmp_path / "in.onnx")
    after, _ = pipeline_from_text(PASS).run(load_model(tmp_path / "in.onnx"), context=Context())
    save_model(after, tmp_path / "out.onnx")
    parts = [value.const_value for value in load_model(tmp_path / "out.onnx").graph.initializers.values()]
    arrays = sorted((tensor.numpy() for tensor in parts if tensor is not None), key=lambda array: array.shape[1])
    assert np.array_equal(arrays[0], weight[:, :1])
    assert np.array_equal(arrays[1], weight[:, 1:])


def test_the_sizes_of_an_early_opset_are_an_attribute() -> None:
    text = _text("y = MatMul (x, w) p, q = Split <axis = 2, split = [3, 5]> (y)")
    model = add_weights(graph_from(text, opset=11), **WEIGHTS)
    after, _ = rewrite(model, UnpackProjections(), feeds=({"x": random_array(2, 4, 6)},))
    assert counts(after) == {"MatMul": 2}


def test_a_product_around_a_loop_is_not_moved_into_it() -> None:
    text = """g (float[2,6] x, int64 n, float[6,8] w) => (float[2,6] z, float[K,2,4] r) {
        y = MatMul (x, w)
        z, r = Loop (n, , x) <body = b (int64 i, bool c, float[2,6] s) => (bool d, float[2,6] t, float[2,4] g) {
            d = Identity (c) t = Neg (s) g, h = Split <axis = -1, num_outputs = 2> (y) }>
    }"""
    feeds = [{"x": random_array(2, 6, seed=9), "n": np.array(2)}]
    assert_refused(text, "unpack-projections", "another graph", weights={"w": WEIGHTS["w"]}, feeds=feeds)
