from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.support.golden import assert_lines, assert_refused, transformed
from tests.support.rewriting import counts, graph_from

HEAD = """g (float[B,2,S,8] q, float[B,2,S,8] k, float[B,2,S,8] v, float[S,S] other, int64 past, bool[B,1,1,S] seen)
    => (float[B,2,S,8] y) {
    zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
    at0 = Constant <value = int64[1] {0}> () at1 = Constant <value = int64[1] {1}> ()
    none = Constant <value = float {0.0}> () hide = Constant <value = float {-3.4e38}> ()
    low = Constant <value = float {-1000.0}> ()
    dims = Shape <start = 2, end = 3> (q) square = Concat <axis = 0> (dims, dims)
    length = Squeeze (dims)
    places = Range (zero, length, one) later = Add (places, one)
    row = Unsqueeze (places, at0) column = Unsqueeze (places, at1) column1 = Unsqueeze (later, at1)
    ones = ConstantOfShape <value = bool[1] {1}> (square) hides = ConstantOfShape <value = float[1] {-1e30}> (square)
    numbers = ConstantOfShape <value = float[1] {1.0}> (square)
"""

CAUSAL = {
    "key <= query": "mask = LessOrEqual (row, column)",
    "query >= key": "mask = GreaterOrEqual (column, row)",
    "key < query + 1": "mask = Less (row, column1)",
    "query + 1 > key": "mask = Greater (column1, row)",
    "not key > query": "h = Greater (row, column) mask = Not (h)",
    "not query < key": "h = Less (column, row) mask = Not (h)",
    "not query + 1 <= key": "h = LessOrEqual (column1, row) mask = Not (h)",
    "with true": "c = LessOrEqual (row, column) mask = And (c, ones)",
    "lower part of ones": "mask = Trilu <upper = 0> (ones)",
    "lower part of ones, as numbers": "t = Trilu <upper = 0> (numbers) mask = Cast <to = 9> (t)",
    "not the part above": "t = Trilu <upper = 1> (ones, one) mask = Not (t)",
    "added above": "mask = Trilu <upper = 1> (hides, one)",
    "0 where seen": "c = LessOrEqual (row, column) mask = Where (c, none, hide)",
    "hidden where later": "c = Greater (row, column) mask = Where (c, hide, none)",
    "hidden where above": "c = Trilu <upper = 1> (ones, one) mask = Where (c, hide, none)",
    "with axes": "c = LessOrEqual (row, column) u = Unsqueeze (c, at0) mask = Unsqueeze (u, at0)",
}


def model(lines: str) -> ir.Model:
    return graph_from(HEAD + lines + " y = Attention <scale = 0.5> (q, k, v, mask) }")


def feeds(length: int = 5) -> tuple[dict[str, np.ndarray], ...]:
    random = np.random.default_rng(0)
    shape = (2, 2, length, 8)
    found = {name: random.standard_normal(shape).astype(np.float32) for name in "qkv"}
    seen = np.ones((2, 1, 1, length), bool)
    seen[1, 0, 0, -2:] = False
    return (
        found
        | {"other": random.standard_normal((length, length)).astype(np.float32), "past": np.array(3), "seen": seen},
    )


PIPELINE = "fuse-attention,eliminate-dead-code"


@pytest.mark.parametrize("lines", CAUSAL.values(), ids=CAUSAL)
def test_a_causal_triangle_is_the_attention_s_own(lines: str) -> None:
    for length in (1, 2, 5):
        after, _ = transformed(model(lines), PIPELINE, feeds=feeds(length))
        assert counts(after) == {"Attention": 1}
        assert after.graph[0].attributes["is_causal"].as_int() == 1
        assert len(after.graph[0].inputs) == 3


@pytest.mark.parametrize("kind", [np.float32, bool])
def test_a_constant_triangle_too(kind: type) -> None:
    table = np.tri(5, dtype=bool)[None, None]
    if kind is np.float32:
        table = np.where(table, np.float32(0), np.float32(-np.inf))
    text = f"""g (float[B,2,5,8] q, float[B,2,5,8] k, float[B,2,5,8] v,
        {"bool" if kind is bool else "float"}[1,1,5,5] mask)
        => (float[B,2,5,8] y) {{ y = Attention <scale = 0.5> (q, k, v, mask) }}"""
    assert_lines(
        text, PIPELINE, "CHECK: y = Attention <{{.*}}is_causal: int = 1{{.*}}> (q, k, v)", weights={"mask": table}
    )
    table = table.copy()
    table[0, 0, 1, 3] = table[0, 0, 1, 1]  # sees a later key
    after, _ = transformed(text, PIPELINE, weights={"mask": table})
    assert len(after.graph[0].inputs) == 4


OTHERS = {
    "padding": "c = LessOrEqual (row, column) mask = And (c, seen)",
    "a bias": "c = LessOrEqual (row, column) mask = Where (c, other, hide)",
    "a bias added": "t = Trilu <upper = 1> (hides, one) mask = Add (t, other)",
    "too weak": "c = LessOrEqual (row, column) mask = Where (c, none, low)",
    "strictly earlier or itself plus one": "mask = LessOrEqual (row, column1)",
    "later ones": "mask = GreaterOrEqual (row, column)",
    "transposed": "mask = LessOrEqual (column, row)",
    "not itself": "c = Less (row, column) d = Equal (row, at0) mask = Or (c, d)",
    "upper part": "mask = Trilu <upper = 1> (ones)",
    "one diagonal more": "mask = Trilu <upper = 0> (ones, one)",
    "another start": "r = Add (row, past) mask = LessOrEqual (r, column1)",
    "hidden where seen": "c = LessOrEqual (row, column) mask = Where (c, hide, none)",
    "a window": "c = LessOrEqual (row, column) f = Sub (column, row) w = Less (f, three) mask = And (c, w)",
}


@pytest.mark.parametrize("lines", OTHERS.values(), ids=OTHERS)
def test_any_other_mask_stays(lines: str) -> None:
    lines = lines.replace(
        "c = LessOrEqual (row, column) f", "three = Constant <value = int64 {3}> () c = LessOrEqual (row, column) f"
    )
    after, _ = transformed(model(lines), PIPELINE, feeds=feeds())
    attention = next(node for node in after.graph if node.op_type == "Attention")
    assert len(attention.inputs) == 4
    assert "is_causal" not in attention.attributes


def test_places_that_count_from_a_half_on_are_no_triangle() -> None:
    text = """g (float[B,2,5,8] q, float[B,2,5,8] k, float[B,2,5,8] v) => (float[B,2,5,8] y) {
        zero = Constant <value = float {0.0}> () half = Constant <value = float {0.5}> ()
        one = Constant <value = float {1.0}> () end = Constant <value = float {5.0}> ()
        later = Constant <value = float {5.5}> ()
        at0 = Constant <value = int64[1] {0}> () at1 = Constant <value = int64[1] {1}> ()
        r = Range (half, later, one) c = Range (zero, end, one)
        row = Unsqueeze (r, at0) column = Unsqueeze (c, at1) seen = LessOrEqual (row, column)
        hide = Constant <value = float {-1e9}> () mask = Where (seen, zero, hide)
        y = Attention <scale = 0.5> (q, k, v, mask)
    }"""
    after, _ = transformed(text, "fuse-attention", feeds=({name: feeds()[0][name] for name in "qkv"},))
    assert "is_causal" not in after.graph[-1].attributes


def test_a_triangle_of_other_lengths_is_refused() -> None:
    text = """g (float[B,2,S,8] q, float[B,2,T,8] k, float[B,2,T,8] v) => (float[B,2,S,8] y) {
        zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
        at0 = Constant <value = int64[1] {0}> () at1 = Constant <value = int64[1] {1}> ()
        dims = Shape <start = 2, end = 3> (q) keys = Shape <start = 2, end = 3> (k) length = Squeeze (dims)
        keylength = Squeeze (keys)
        r = Range (zero, keylength, one) c = Range (zero, length, one)
        row = Unsqueeze (r, at0) column = Unsqueeze (c, at1) mask = LessOrEqual (row, column)
        y = Attention <scale = 0.5> (q, k, v, mask)
    }"""
    random = np.random.default_rng(0)
    shapes = {"q": (1, 2, 3, 8), "k": (1, 2, 5, 8), "v": (1, 2, 5, 8)}
    given = ({name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},)
    assert_refused(text, "fuse-attention", "not provably for as many queries as keys", feeds=given)


def test_a_cache_keeps_its_mask() -> None:
    text = """g (float[B,2,S,8] q, float[B,2,S,8] k, float[B,2,S,8] v, float[B,2,P,8] pk, float[B,2,P,8] pv)
        => (float[B,2,S,8] y, float[B,2,T,8] nk, float[B,2,T,8] nv) {
        zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
        at0 = Constant <value = int64[1] {0}> () at1 = Constant <value = int64[1] {1}> ()
        dims = Shape <start = 2, end = 3> (q) length = Squeeze (dims) p = Range (zero, length, one)
        row = Unsqueeze (p, at0) column = Unsqueeze (p, at1) mask = LessOrEqual (row, column)
        y, nk, nv = Attention <scale = 0.5> (q, k, v, mask, pk, pv)
    }"""
    random = np.random.default_rng(0)
    shapes = {**dict.fromkeys("qkv", (1, 2, 4, 8)), **dict.fromkeys(("pk", "pv"), (1, 2, 0, 8))}
    given = ({name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()},)
    after, _ = transformed(text, "fuse-attention", feeds=given)
    assert "is_causal" not in after.graph[-1].attributes


PACKED = """g (float[B,2,S,8] q, float[B,2,S,8] k, float[B,2,S,8] v) => (float[B,2,S,8] y) {
    zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
    at0 = Constant <value = int64[1] {0}> () at1 = Constant <value = int64[1] {1}> ()
    at2 = Constant <value = int64[1] {2}> ()
    batch = Shape <start = 0, end = 1> (q) dims = Shape <start = 2, end = 3> (q) length = Squeeze (dims)
    places = Range (FIRST, END, one) p = Unsqueeze (places, at0)
    repeats = Concat <axis = 0> (batch, at1) positions = Tile (p, repeats)
    head = Slice (positions, at0, at1, at1) before = Sub (head, one) joined = Concat <axis = 1> (before, positions)
    earlier = Slice (joined, at0, dims, at1)
    more = Add (length, one) end = Reshape (more, at1n) last = Slice (joined, at1, end, at1)
    difference = Sub (last, earlier) same = Equal (difference, STEP) other = Not (same) ints = Cast <to = 7> (other)
    group = CumSum (ints, one)
    each = Gather <axis = 1> (group, places)
    g1 = Unsqueeze (each, at1) g2 = Unsqueeze (each, at2) together = Equal (g1, g2)
    row = Unsqueeze (places, at0) column = Unsqueeze (places, at1) c = LessOrEqual (row, column)
    both = And (c, together) mask = Unsqueeze (both, at1)
    y = Attention <scale = 0.5> (q, k, v, mask)
}"""


@pytest.mark.parametrize(
    ("first", "end", "step", "is_constant"), [("zero", "length", "one", True), ("zero", "length", "zero", False)]
)
def test_the_check_for_packed_sequences_is_true_where_positions_count(
    first: str, end: str, step: str, is_constant: bool
) -> None:
    text = PACKED.replace("FIRST", first).replace("END", end).replace("STEP", step)
    text = text.replace("zero = Const", "at1n = Constant <value = int64[1] {-1}> () zero = Const", 1)
    random = np.random.default_rng(0)
    for length in (1, 4):
        given = ({name: random.standard_normal((2, 2, length, 8)).astype(np.float32) for name in "qkv"},)
        pipeline = "repeat(fold-constants,fold-index-arithmetic,remove-identities,fuse-attention),eliminate-dead-code"
        after, _ = transformed(text, pipeline, feeds=given)
        if is_constant:
            assert counts(after) == {"Attention": 1}
            assert after.graph[0].attributes["is_causal"].as_int() == 1
        else:
            assert counts(after)["CumSum"] == 1
