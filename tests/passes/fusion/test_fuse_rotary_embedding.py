from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.fusion.fuse_rotary_embedding import FuseRotaryEmbedding
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

TABLES = """
    r = Range (zero, n, one) p = Unsqueeze (r, ends) f = Cast <to = 1> (p) m = Mul (f, inv)
    e = Concat <axis = -1> (m, {second}) c0 = Cos (e) s0 = Sin (e) c = Unsqueeze (c0, a1) s = Unsqueeze (s0, a1)
"""
SLICES = "lo = Slice (x, z, half, last) hi = Slice (x, half, most, last)"
SPLIT = "lo, hi = Split <axis = -1, num_outputs = 2> (x)"
ROTATE = "{parts} neg = Neg (hi) t = Concat <axis = -1> (neg, lo) a = Mul (x, c) b = Mul (t, s) {out}"


def _model(
    body: str,
    *,
    data: str = "float[B,2,S,6] x",
    outputs: str = "float[B,2,S,6] y",
    tables: str = "float[3] inv",
    opset: int = 23,
) -> ir.Model:
    text = f"""g ({data}, {tables}) => ({outputs}) {{
        zero = Constant <value = int64 {{0}}> () one = Constant <value = int64 {{1}}> ()
        ends = Constant <value = int64[2] {{0, 2}}> () a1 = Constant <value = int64[1] {{1}}> ()
        z = Constant <value = int64[1] {{0}}> () half = Constant <value = int64[1] {{3}}> ()
        last = Constant <value = int64[1] {{3}}> () most = Constant <value = int64[1] {{9223372036854775807}}> ()
        n1 = Shape <start = 2, end = 3> (x) n = Squeeze (n1) {body} }}"""
    dtype = np.float64 if tables.startswith("double") else np.float32
    return add_weights(graph_from(text, opset=opset), inv=np.array([1, 0.1, 0.01], dtype))


def _feeds(heads: int = 2, width: int = 6) -> tuple[dict[str, np.ndarray], ...]:
    return tuple({"x": random_array(b, heads, s, width, seed=b)} for b, s in ((1, 1), (2, 5), (3, 4), (3, 1)))


def _left(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op not in ("Constant", "Range", "Shape", "Squeeze", "Cast")]


@pytest.mark.parametrize("parts", [SLICES, SPLIT])
@pytest.mark.parametrize("out", ["y = Add (a, b)", "y = Add (b, a)"])
def test_a_rotation_becomes_one_operator_that_reads_half_caches_of_the_whole_batch(parts: str, out: str) -> None:
    body = TABLES.format(second="m") + ROTATE.format(parts=parts, out=out)
    after, result = rewrite(_model(body), FuseRotaryEmbedding(), feeds=_feeds())
    assert _left(after) == ["Unsqueeze", "Mul", "Cos", "Sin", "Concat", "Expand", "Expand", "RotaryEmbedding"]
    assert [event.rule for event in result.applied] == ["rotate-half"]
    _, result = rewrite(after, FuseRotaryEmbedding(), feeds=_feeds())
    assert not result.applied


def test_two_rotations_share_their_caches() -> None:
    body = TABLES.format(second="m") + ROTATE.format(parts=SLICES, out="y = Add (a, b)")
    second = "nx = Neg (x)" + ROTATE.format(parts=SLICES, out="y2 = Add (a, b)").replace("(x", "(nx")
    for name in ("lo", "hi", "neg", "t", "a", "b"):
        second = second.replace(f"{name} =", f"{name}2 =").replace(f"({name})", f"({name}2)")
        second = second.replace(f"({name},", f"({name}2,").replace(f", {name})", f", {name}2)")
    model = _model(body + second, outputs="float[B,2,S,6] y, float[B,2,S,6] y2")
    after, _ = rewrite(model, FuseRotaryEmbedding(), feeds=_feeds())
    assert operators(after).count("RotaryEmbedding") == 2
    assert operators(after).count("Expand") == 2
    assert operators(after).count("Cos") == 1


@pytest.mark.parametrize("parts", [SLICES, SPLIT])
@pytest.mark.parametrize(("heads", "width"), [(2, 10), (1, 7), (3, 12)])
def test_a_rotation_of_the_first_features_takes_up_the_rest(parts: str, heads: int, width: int) -> None:
    cut = "x = Slice (w, z, six, last) rest = Slice (w, six, most, last) six = Constant <value = int64[1] {6}> ()"
    cut = "six = Constant <value = int64[1] {6}> () " + cut.replace("six = Constant <value = int64[1] {6}> ()", "")
    rotated = ROTATE.format(parts=parts, out="q = Add (a, b)")
    body = cut + TABLES.format(second="m") + rotated + " y = Concat <axis = -1> (q, rest)"
    model = _model(body, data=f"float[B,{heads},S,{width}] w", outputs=f"float[B,{heads},S,{width}] y")
    shape = next(node for node in model.graph if node.op_type == "Shape")
    shape.replace_input_with(0, model.graph.inputs[0])
    model.graph.sort()
    feeds = tuple({"w": random_array(b, heads, s, width, seed=b)} for b, s in ((1, 1), (3, 4)))
    after, result = rewrite(model, FuseRotaryEmbedding(), feeds=feeds)
    node = after.graph.node(-1)
    assert node.op_type == "RotaryEmbedding"
    assert node.attributes["rotary_embedding_dim"].as_int() == 6
    assert [event.rule for event in result.applied] == ["rotate-half", "partial"]


def test_a_constant_table_that_is_gathered_by_position_is_halved() -> None:
    body = """
        c0 = Gather (cos, pos) s0 = Gather (sin, pos) c = Unsqueeze (c0, a1) s = Unsqueeze (s0, a1)
    """ + ROTATE.format(parts=SLICES, out="y = Add (a, b)")
    data = "float[B,2,S,6] x, int64[B,S] pos, float[9,6] cos, float[9,6] sin"
    half = random_array(9, 3)
    table = np.concatenate([half, half], axis=1)
    feeds = tuple(
        {"x": random_array(b, 2, s, 6), "pos": np.arange(b * s).reshape(b, s) % 9} for b, s in ((1, 1), (2, 5), (3, 4))
    )
    model = add_weights(_model(body, data=data), cos=table, sin=table * 0.5)
    after, _ = rewrite(model, FuseRotaryEmbedding(), feeds=feeds)
    assert _left(after) == ["Gather", "Gather", "RotaryEmbedding"]
    uneven = add_weights(_model(body, data=data), cos=random_array(9, 6), sin=table)
    _, result = rewrite(uneven, FuseRotaryEmbedding(), feeds=feeds)
    assert reasons(result) == ["the halves of the table 'c' are not known to be equal"]


def test_halves_of_two_tensors_are_refused() -> None:
    body = TABLES.format(second="m2").replace("e =", "m2 = Neg (m) e =")
    body += ROTATE.format(parts=SLICES, out="y = Add (a, b)")
    _, result = rewrite(_model(body), FuseRotaryEmbedding(), feeds=_feeds())
    assert reasons(result) == ["the halves of the table 'c' are not known to be equal"]


def test_a_rotation_whose_inner_value_is_read_elsewhere_is_refused() -> None:
    body = TABLES.format(second="m") + ROTATE.format(parts=SLICES, out="y = Add (a, b) n2 = Neg (t)")
    model = _model(body, outputs="float[B,2,S,6] y, float[B,2,S,6] n2")
    _, result = rewrite(model, FuseRotaryEmbedding(), feeds=_feeds())
    assert reasons(result) == ["output 't' also feeds n2"]


def test_an_older_opset_is_refused() -> None:
    body = TABLES.format(second="m") + ROTATE.format(parts=SLICES, out="y = Add (a, b)")
    _, result = rewrite(_model(body, opset=20), FuseRotaryEmbedding(), feeds=_feeds())
    assert reasons(result) == ["RotaryEmbedding needs opset 23"]


def test_a_rotation_of_doubles_is_refused_since_the_operator_takes_none() -> None:
    body = TABLES.format(second="m").replace("to = 1", "to = 11") + ROTATE.format(parts=SLICES, out="y = Add (a, b)")
    model = _model(body, data="double[B,2,S,6] x", outputs="double[B,2,S,6] y", tables="double[3] inv")
    feeds = tuple({"x": feed["x"].astype(np.float64)} for feed in _feeds())
    _, result = rewrite(model, FuseRotaryEmbedding(), feeds=feeds)
    assert reasons(result) == ["'x' is of type DOUBLE, RotaryEmbedding takes FLOAT, FLOAT16, BFLOAT16"]


@pytest.mark.parametrize(
    "swap", [("(neg, lo)", "(lo, neg)"), ("Neg (hi)", "Neg (lo)"), ("Slice (x, z, half", "Slice (x, z, a1")]
)
def test_what_only_looks_like_a_rotation_is_left_alone(swap: tuple[str, str]) -> None:
    body = TABLES.format(second="m") + ROTATE.format(parts=SLICES, out="y = Add (a, b)").replace(*swap)
    if "a1" in swap[1]:
        body = body.replace("Slice (x, half, most", "Slice (x, a1, most")
    _, result = rewrite(_model(body), FuseRotaryEmbedding(), feeds=_feeds())
    assert not result.applied


def test_a_cache_for_one_batch_is_repaired_once_for_all_readers() -> None:
    text = """g (float[B,2,S,6] x, float[1,S,3] c, float[1,S,3] s) => (float[B,2,S,6] y, float[B,2,S,6] y2) {
        y = RotaryEmbedding (x, c, s) n = Neg (x) y2 = RotaryEmbedding (n, c, s) }"""
    feeds = tuple(
        {"x": random_array(1, 2, s, 6), "c": random_array(1, s, 3), "s": random_array(1, s, 3)} for s in (1, 4)
    )
    after, result = rewrite(graph_from(text), FuseRotaryEmbedding(), feeds=feeds)  # the original runs at batch 1 only
    assert operators(after).count("Expand") == 2
    assert [event.rule for event in result.applied] == ["batch", "batch"]
    _, result = rewrite(after, FuseRotaryEmbedding(), feeds=feeds)
    assert not result.applied


def test_a_cache_of_an_unknown_batch_is_refused() -> None:
    text = """g (float[N] v, int64[4] shape, float[1,S,3] c, float[1,S,3] s) => (float[P,Q,R,T] y) {
        x = Reshape (v, shape) y = RotaryEmbedding (x, c, s) }"""
    feeds = (
        {
            "v": random_array(48),
            "shape": np.array([1, 2, 4, 6]),
            "c": random_array(1, 4, 3),
            "s": random_array(1, 4, 3),
        },
    )
    _, result = rewrite(graph_from(text), FuseRotaryEmbedding(), feeds=feeds)
    assert not result.applied
