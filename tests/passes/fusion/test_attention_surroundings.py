"""What an Attention takes up: repeated heads, a cache, rotated heads, factors, a position bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.fusion.fuse_attention import FuseAttention
from passes.pipeline import Pipeline
from tests.support.rewriting import graph_from, operators, random_array, reasons, rewrite

SIZES = ((1, 1, 2), (2, 5, 3), (3, 4, 1))  # batch, sequence, past


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op not in ("Constant", "Shape")]


def _rules(result: object) -> list[str]:
    return [event.rule for event in result.applied]  # type: ignore[attr-defined]


GROUPS = """g (float[B,6,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v) => (float[B,6,S,4] y) {{
    two = Constant <value = int64[1] {{2}}> () join = Constant <value = int64[4] {{0, 6, -1, 4}}> ()
    times = Constant <value = int64[5] {{1, 1, 3, 1, 1}}> ()
    ku = Unsqueeze (k, {axis}) ke = {op} (ku, times) kr = Reshape (ke, join)
    vu = Unsqueeze (v, two) ve = {op} (vu, times) vr = Reshape (ve, join)
    y = Attention (q, kr, {value}) }}"""


def _group_feeds() -> tuple[dict[str, np.ndarray], ...]:
    return tuple(
        {
            "q": random_array(b, 6, s, 4, seed=1),
            "k": random_array(b, 2, s, 4, seed=2),
            "v": random_array(b, 2, s, 4, seed=3),
        }
        for b, s, _ in SIZES
    )


@pytest.mark.parametrize("op", ["Expand", "Tile"])
def test_repeated_heads_are_read_before_the_repetition(op: str) -> None:
    model = graph_from(GROUPS.format(op=op, axis="two", value="vr"))
    after, result = rewrite(model, FuseAttention(), feeds=_group_feeds())
    assert _ops(after) == ["Attention"]
    assert [value.name for value in after.graph.node(-1).inputs if value] == ["q", "k", "v"]
    assert _rules(result) == ["groups"]


def test_heads_that_are_tiled_as_a_whole_are_not_groups() -> None:
    text = GROUPS.format(op="Expand", axis="one", value="vr").replace("(v, two)", "(v, one)")
    text = text.replace("{1, 1, 3, 1, 1}", "{1, 3, 1, 1, 1}")
    text = text.replace("two = C", "one = Constant <value = int64[1] {1}> () two = C")
    after, result = rewrite(graph_from(text), FuseAttention(), feeds=_group_feeds())
    assert operators(after).count("Expand") == 2
    assert not result.applied


def _tiled(times: str, *, heads: int = 6, join: str = "0, 6, -1, 4") -> ir.Model:
    text = GROUPS.format(op="Tile", axis="two", value="vr").replace("{1, 1, 3, 1, 1}", times)
    return graph_from(text.replace("B,6,S,4", f"B,{heads},S,4").replace("{0, 6, -1, 4}", f"{{{join}}}"))


@pytest.mark.parametrize(
    ("times", "heads", "join"),
    [
        ("{1, 1, 2, 1, 1}", 4, "0, 4, -1, 4"),
        ("{1, 1, 1, 1, 1}", 2, "0, 2, -1, 4"),
        ("{1, 1, 4, 1, 1}", 8, "0, 8, -1, 4"),
    ],
)
def test_tiles_of_the_new_axis_alone_are_groups(times: str, heads: int, join: str) -> None:
    feeds = tuple(
        {**feed, "q": random_array(feed["q"].shape[0], heads, feed["q"].shape[2], 4)} for feed in _group_feeds()
    )
    after, result = rewrite(_tiled(times, heads=heads, join=join), FuseAttention(), feeds=feeds)
    assert _ops(after) == ["Attention"]
    assert _rules(result) == ["groups"]


@pytest.mark.parametrize("times", ["{1, 3, 1, 1, 1}", "{3, 1, 1, 1, 1}", "{1, 1, 1, 3, 1}"])
def test_tiles_of_another_axis_are_no_groups(times: str) -> None:
    _, result = Pipeline((FuseAttention(),)).run(_tiled(times))
    assert not result[0].applied


def test_keys_that_are_repeated_alone_are_refused() -> None:
    text = GROUPS.format(op="Expand", axis="two", value="v6").replace(
        "float[B,2,S,4] v)", "float[B,2,S,4] v, float[B,6,S,4] v6)"
    )
    feeds = tuple({**feed, "v6": random_array(*feed["q"].shape, seed=4)} for feed in _group_feeds())
    _, result = rewrite(graph_from(text), FuseAttention(), feeds=feeds)
    assert reasons(result) == ["key and value heads are not repeated alike"]


CACHE = """g (float[B,S,8] x, float[B,S,8] c, float[B,2,P,4] pk, float[B,2,P,4] pv, float[B,1,S,T] mask)
    => (float[B,S,8] y, float[B,2,T,4] k, float[B,2,T,4] v{more}) {{
    split = Constant <value = int64[4] {{0, 0, 2, 4}}> () merge = Constant <value = int64[3] {{0, 0, 8}}> ()
    scale = Constant <value = float {{0.5}}> ()
    q4 = Reshape (x, split) q = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape (c, split) kn = Transpose <perm = [0, 2, 1, 3]> (k4)
    vn = Transpose <perm = [0, 2, 1, 3]> (k4)
    k = Concat <axis = {axis}> (pk, kn) v = Concat <axis = -2> (pv, vn)
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul (q, kt) s = Mul (s0, scale) m = Add (s, mask)
    p = Softmax <axis = -1> (m) o = MatMul (p, v) t = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (t, merge)
    {extra} }}"""


def _cache_model(axis: int = 2, more: str = "", extra: str = "") -> ir.Model:
    return graph_from(CACHE.format(axis=axis, more=more, extra=extra))


def _cache_feeds() -> tuple[dict[str, np.ndarray], ...]:
    return tuple(
        {
            "x": random_array(b, s, 8, seed=1),
            "c": random_array(b, s, 8, seed=2),
            "pk": random_array(b, 2, p, 4, seed=3),
            "pv": random_array(b, 2, p, 4, seed=4),
            "mask": np.where(random_array(b, 1, s, s + p) > 1.5, -1e9, 0).astype(np.float32),
        }
        for b, s, p in (*SIZES, (2, 3, 0))
    )


@pytest.mark.parametrize("axis", [2, -2])
def test_a_cache_becomes_past_and_present(axis: int) -> None:
    after, result = rewrite(_cache_model(axis), FuseAttention(), feeds=_cache_feeds())
    assert _ops(after) == ["Attention"]
    node = after.graph.node(-1)
    assert [value.name for value in node.inputs if value] == ["x", "c", "c", "mask", "pk", "pv"]
    assert [value.name for value in node.outputs] == ["y", "k", "v"]
    assert _rules(result) == ["attention", "cache", "heads"]


def test_a_cache_that_is_read_elsewhere_is_refused() -> None:
    model = _cache_model(more=", float[B,2,T,4] z", extra="z = Neg (k)")
    _, result = rewrite(model, FuseAttention(), feeds=_cache_feeds())
    assert "the appended tensor also feeds" in reasons(result)[0]


def test_a_causal_attention_keeps_its_cache_outside() -> None:
    text = """g (float[B,2,S,4] q, float[B,2,P,4] pk, float[B,2,S,4] kn, float[B,2,T,4] v) => (float[B,2,S,4] y) {
        k = Concat <axis = 2> (pk, kn) w = Concat <axis = 2> (pk, kn) y = Attention <is_causal = 1> (q, k, w) }"""
    model = graph_from(text)
    feeds = tuple(
        {
            "q": random_array(b, 2, s, 4, seed=1),
            "pk": random_array(b, 2, p, 4, seed=2),
            "kn": random_array(b, 2, s, 4, seed=3),
            "v": random_array(b, 2, s + p, 4, seed=4),
        }
        for b, s, p in SIZES
    )
    after, result = rewrite(model, FuseAttention(), feeds=feeds)
    assert "Concat" in operators(after)
    assert reasons(result) == ["it is causal from the first key on, and a cache shifts that"]


ROTARY = """g (float[B,S,8] x, float[B,S,8] c, float[B,S,2] cos, float[B,S,2] sin) => (float[B,S,8] y{more}) {{
    split = Constant <value = int64[4] {{0, 0, 2, 4}}> () merge = Constant <value = int64[{n}] {{{merge}}}> ()
    q4 = Reshape (x, split) q0 = Transpose <perm = [0, 2, 1, 3]> (q4) q = RotaryEmbedding (q0, cos, sin)
    k4 = Reshape (c, split) k0 = Transpose <perm = [0, 2, 1, 3]> (k4) k = RotaryEmbedding (k0, cos, sin)
    v = Transpose <perm = [0, 2, 1, 3]> (k4)
    o = Attention <scale = 0.4> (q, k, v) t = Transpose <perm = [0, 2, 1, 3]> (o) {tail} }}"""


def _rotary_feeds() -> tuple[dict[str, np.ndarray], ...]:
    return tuple(
        {
            "x": random_array(b, s, 8, seed=1),
            "c": random_array(b, s, 8, seed=2),
            "cos": random_array(b, s, 2, seed=3),
            "sin": random_array(b, s, 2, seed=4),
        }
        for b, s, _ in SIZES
    )


def test_rotated_heads_are_rotated_flat() -> None:
    model = graph_from(ROTARY.format(more="", n=3, merge="0, 0, 8", tail="y = Reshape (t, merge)"))
    after, result = rewrite(model, FuseAttention(), feeds=_rotary_feeds())
    assert _ops(after) == ["RotaryEmbedding", "RotaryEmbedding", "Attention"]
    assert after.graph.node(-2).attributes["num_heads"].as_int() == 2
    assert _rules(result) == ["heads"]


def test_rotated_heads_that_are_an_output_are_made_of_the_flat_rotation() -> None:
    tail = "y = Reshape (t, merge) kout = Identity (k)"
    model = graph_from(ROTARY.format(more=", float[B,2,S,4] kout", n=3, merge="0, 0, 8", tail=tail))
    after, _ = rewrite(model, FuseAttention(), feeds=_rotary_feeds())
    assert operators(after).count("RotaryEmbedding") == 2
    assert operators(after).count("Transpose") == 1
    assert next(n for n in after.graph if n.op_type == "Attention").attributes["q_num_heads"].as_int() == 2


def test_a_merge_to_two_dimensions_keeps_its_reshape() -> None:
    tail = "f = Reshape (t, merge) three = Constant <value = int64[3] {2, -1, 8}> () y = Reshape (f, three)"
    text = ROTARY.format(more="", n=2, merge="-1, 8", tail=tail).replace("[B,", "[2,")
    after, _ = rewrite(graph_from(text), FuseAttention(), feeds=_rotary_feeds()[1:2])
    assert _ops(after) == ["RotaryEmbedding", "RotaryEmbedding", "Attention", "Reshape", "Reshape"]


SCALE = """g (float[B,S,8] x, float[B,S,8] k, float[B,S,8] v) => (float[B,S,8] y{more}) {{
    c = Constant <value = float{rank} {{{number}}}> () q = {op}
    y = Attention <q_num_heads = 2, kv_num_heads = 2{scale}> ({inputs}) {extra} }}"""


def _scale_model(
    op: str = "Mul (x, c)",
    *,
    rank: str = "",
    number: str = "0.5",
    scale: str = ", scale = 1.0",
    inputs: str = "q, k, v",
    more: str = "",
    extra: str = "",
) -> ir.Model:
    return graph_from(SCALE.format(op=op, rank=rank, number=number, scale=scale, inputs=inputs, more=more, extra=extra))


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "expected"),
    [
        ("Mul (x, c)", "q, k, v", ", scale = 1.0", 0.5),
        ("Mul (c, x)", "q, k, v", ", scale = 1.0", 0.5),
        ("Div (x, c)", "q, k, v", ", scale = 0.5", 1.0),
        ("Div (x, c)", "q, k, v", "", 1.0),  # the default is 1 / sqrt(4)
        ("Div (k, c)", "x, q, v", ", scale = 0.25", 0.5),
        ("Mul (k, c)", "x, q, v", "", 0.25),
    ],
)
def test_a_factor_of_query_or_key_becomes_the_scale(op: str, inputs: str, scale: str, expected: float) -> None:
    after, result = rewrite(_scale_model(op, inputs=inputs, scale=scale), FuseAttention())
    assert _ops(after) == ["Attention"]
    assert after.graph.node(-1).attributes["scale"].as_float() == pytest.approx(expected)
    assert _rules(result) == ["scale"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"more": ", float[B,S,8] z", "extra": "z = Neg (q)"}, "output 'q' also feeds z"),
        ({"number": "-0.5"}, "a scale of -0.5 beside 'q' is not one to merge"),
        ({"inputs": "q, k, q"}, "'q' is read twice"),
    ],
)
def test_a_factor_that_cannot_move_is_refused(options: dict[str, str], reason: str) -> None:
    after, result = rewrite(_scale_model(**options), FuseAttention())
    assert len(_ops(after)) > 1
    assert reasons(result)[0] == reason


BIAS = """g (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v, float[1,2,S,S] bias, {kind}[B,1,S,S] mask)
    => (float[B,2,S,4] y) {{
    zero = Constant <value = float {{0.0}}> () low = Constant <value = float {{{low}}}> ()
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s0 = MatMul (q, kt) s = Add (s0, bias) {mask}
    p = Softmax <axis = -1> (m) y = MatMul (p, v) }}"""


@pytest.mark.parametrize(
    ("mask", "kind", "low", "left"),
    [
        ("m = Add (s, mask)", "float", "0.0", ["Add", "Attention"]),
        ("w = Where (mask, zero, low) m = Add (s, w)", "bool", "-3.4028234663852886e+38", ["Where", "Attention"]),
        ("w = Where (mask, zero, low) m = Add (s, w)", "bool", "-100.0", ["Where", "Add", "Attention"]),
        ("m = Where (mask, s, low)", "bool", "-1e9", ["Where", "Attention"]),
    ],
)
def test_a_position_bias_joins_the_mask(mask: str, kind: str, low: str, left: list[str]) -> None:
    hidden = np.ones((3, 1, 4, 4), bool)
    hidden[1, :, :, 2:] = False
    hidden[2, 0, 1] = False  # a row that sees nothing
    feeds = {name: random_array(3, 2, 4, 4, seed=seed) for seed, name in enumerate("qkv")}
    given = hidden if kind == "bool" else np.where(hidden, 0, -50).astype(np.float32)
    feeds |= {"bias": random_array(1, 2, 4, 4), "mask": given}
    after, _ = rewrite(graph_from(BIAS.format(mask=mask, kind=kind, low=low)), FuseAttention(), feeds=(feeds,))
    assert _ops(after) == left
