"""Attention's heads that come from, and go through, chains of moves; batch and heads as one axis."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from passes.dimensions import Dim
from passes.fusion.attention_layout import Atom, regrouped
from passes.fusion.fuse_attention import FuseAttention
from tests.support.rewriting import graph_from, operators, random_array, reasons, rewrite

SIZES = ((1, 1), (2, 5), (3, 4))  # batch, sequence


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op not in ("Constant", "Shape", "Concat")]


def _rules(result: object) -> list[str]:
    return [event.rule for event in result.applied]  # type: ignore[attr-defined]


NUMBERS = """zero = Constant <value = int64 {0}> () one = Constant <value = int64 {1}> ()
    two = Constant <value = int64 {2}> ()
    axis2 = Constant <value = int64[1] {2}> () axis0 = Constant <value = int64[1] {0}> ()
    axis3 = Constant <value = int64[1] {3}> () merge = Constant <value = int64[3] {0, 0, 8}> ()"""

SIDE_BY_SIDE = {
    "parts by Gather": """p = Constant <value = int64[5] {0, 0, 3, 2, 4}> () r = Reshape (x, p)
        t = Transpose <perm = [2, 0, 3, 1, 4]> (r)
        q = Gather <axis = 0> (t, zero) k = Gather <axis = 0> (t, one) v = Gather <axis = 0> (t, two)""",
    "parts by Gather before the swap": """p = Constant <value = int64[5] {0, 0, 3, 2, 4}> () r = Reshape (x, p)
        q0 = Gather <axis = 2> (r, zero) k0 = Gather <axis = 2> (r, one) v0 = Gather <axis = -3> (r, two)
        q = Transpose <perm = [0, 2, 1, 3]> (q0) k = Transpose <perm = [0, 2, 1, 3]> (k0)
        v = Transpose <perm = [0, 2, 1, 3]> (v0)""",
    "parts by Split": """p = Constant <value = int64[5] {0, 0, 3, 2, 4}> () r = Reshape (x, p)
        t = Transpose <perm = [2, 0, 3, 1, 4]> (r) q0, k0, v0 = Split <axis = 0, num_outputs = 3> (t)
        q = Squeeze (q0, axis0) k = Squeeze (k0, axis0) v = Squeeze (v0, axis0)""",
}
MERGED = "o = Attention (q, k, v) s = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (s, merge)"


def _packed(body: str, outputs: str = "float[B,S,8] y") -> ir.Model:
    return graph_from(f"g (float[B,S,24] x) => ({outputs}) {{ {NUMBERS} {body} }}")


def _feeds(width: int = 24) -> tuple[dict[str, np.ndarray], ...]:
    return tuple({"x": random_array(b, s, width, seed=b)} for b, s in SIZES)


@pytest.mark.parametrize("form", SIDE_BY_SIDE)
def test_query_key_and_value_side_by_side_become_one_split(form: str) -> None:
    after, result = rewrite(_packed(SIDE_BY_SIDE[form] + MERGED), FuseAttention(), feeds=_feeds())
    assert _ops(after) == ["Split", "Attention"]
    assert _rules(result) == ["heads"]


def test_parts_inside_each_head_are_no_split() -> None:
    body = (
        SIDE_BY_SIDE["parts by Gather"]
        .replace("{0, 0, 3, 2, 4}", "{0, 0, 2, 3, 4}")
        .replace("[2, 0, 3, 1, 4]", "[3, 0, 2, 1, 4]")
    )
    after, result = rewrite(_packed(body + MERGED), FuseAttention(), feeds=_feeds())
    assert not result.applied
    assert "Split" not in operators(after)


SEQUENCE_FIRST = """wide = Constant <value = int64[4] {0, 0, 2, 4}> ()
    part = Constant <value = int64[4] {0, 0, 3, 8}> () r = Reshape (x, part) u = Unsqueeze (r, axis0)
    t = Transpose <perm = [3, 1, 2, 0, 4]> (u) s = Squeeze (t, axis3)
    q0 = Gather <axis = 0> (s, zero) k0 = Gather <axis = 0> (s, one) v0 = Gather <axis = 0> (s, two)
    q1 = Reshape (q0, wide) k1 = Reshape (k0, wide) v1 = Reshape (v0, wide)
    q = Transpose <perm = [1, 2, 0, 3]> (q1) k = Transpose <perm = [1, 2, 0, 3]> (k1)
    v = Transpose <perm = [1, 2, 0, 3]> (v1) o = Attention (q, k, v) """


@pytest.mark.parametrize(
    ("merge", "outputs", "ops"),
    [
        ("m = Transpose <perm = [2, 0, 1, 3]> (o) y = Reshape (m, merge)", "float[S,B,8] y", ["Transpose"]),
        (
            "flat = Constant <value = int64[2] {-1, 8}> () m = Transpose <perm = [2, 0, 1, 3]> (o) "
            "z = Reshape (m, flat) y = Neg (z)",
            "float[N,8] y",
            ["Transpose", "Reshape", "Neg"],
        ),
        ("m = Transpose <perm = [0, 2, 1, 3]> (o) y = Reshape (m, merge)", "float[B,S,8] y", []),
    ],
)
def test_sequence_first_costs_one_transpose_for_all_three(merge: str, outputs: str, ops: list[str]) -> None:
    model = graph_from(f"g (float[S,B,24] x) => ({outputs}) {{ {NUMBERS} {SEQUENCE_FIRST} {merge} }}")
    after, result = rewrite(model, FuseAttention(), feeds=_feeds())
    assert _ops(after) == ["Transpose", "Split", "Attention", *ops]
    assert _rules(result) == ["heads"]


def test_heads_that_are_also_an_output_are_still_there() -> None:
    model = graph_from(
        f"""g (float[S,B,24] x) => (float[S,B,8] y, float[B,2,S,4] k) {{ {NUMBERS} {SEQUENCE_FIRST}
        m = Transpose <perm = [2, 0, 1, 3]> (o) y = Reshape (m, merge) }}"""
    )
    after, _ = rewrite(model, FuseAttention(), feeds=_feeds())
    assert operators(after).count("Attention") == 1
    assert [value.name for value in after.graph.outputs] == ["y", "k"]


def _bmm(mask: str = "p = Softmax <axis = -1> (s)", *, outputs: str = "float[B,5,8] y", more: str = "") -> ir.Model:
    return graph_from(
        f"""g (float[B,5,8] x, float[B,2,1,5] bias, float[N,1,5] low) => ({outputs}) {{ {NUMBERS}
        rows = Constant <value = int64[4] {{0, 0, 2, 4}}> () down = Constant <value = int64[3] {{-1, 5, 4}}> ()
        up = Constant <value = int64[4] {{-1, 2, 5, 4}}> () wide = Constant <value = int64[4] {{-1, 2, 5, 5}}> ()
        thin = Constant <value = int64[3] {{-1, 5, 5}}> () half = Constant <value = float {{0.5}}> ()
        x4 = Reshape (x, rows) xh = Transpose <perm = [0, 2, 1, 3]> (x4) q0 = Reshape (xh, down)
        q = Mul (q0, half) kt = Transpose <perm = [0, 2, 1]> (q0) s = MatMul (q, kt) {mask}
        o = MatMul (p, q0) o4 = Reshape (o, up) ot = Transpose <perm = [0, 2, 1, 3]> (o4) y = Reshape (ot, merge)
        {more} }}"""
    )


def _bmm_feeds() -> tuple[dict[str, np.ndarray], ...]:
    return tuple(
        {
            "x": random_array(b, 5, 8, seed=b),
            "bias": random_array(b, 2, 1, 5, seed=7),
            "low": random_array(2 * b, 1, 5, seed=8),
        }
        for b, _ in SIZES
    )


MASKS = {
    "none": ("p = Softmax <axis = -1> (s)", ["Attention"]),
    "factor": ("f = Mul (s, half) p = Softmax <axis = 2> (f)", ["Attention"]),
    "rank 4": (
        "w = Reshape (s, wide) m = Add (w, bias) p4 = Softmax <axis = -1> (m) p = Reshape (p4, thin)",
        ["Expand", "Attention"],
    ),
    "rank 4 after a divisor": (
        "d = Div (s, half) w = Reshape (d, wide) m = Add (bias, w) p4 = Softmax <axis = 3> (m) p = Reshape (p4, thin)",
        ["Expand", "Attention"],
    ),
    "rank 3": (
        "rows3 = Constant <value = int64[3] {-1, 1, 5}> () low3 = Reshape (bias, rows3) m = Add (s, low3) "
        "p = Softmax <axis = -1> (m)",
        ["Reshape", "Reshape", "Expand", "Attention"],
    ),
}


@pytest.mark.parametrize("mask", MASKS)
def test_batch_and_heads_as_one_axis(mask: str) -> None:
    body, ops = MASKS[mask]
    after, result = rewrite(_bmm(body), FuseAttention(), feeds=_bmm_feeds())
    assert _ops(after) == ops
    assert _rules(result)[:2] == ["lift", "attention"]


REFUSED = {
    "the weights are also read": (
        _bmm(outputs="float[B,5,8] y, float[N,5,5] z", more="z = Neg (p)"),
        None,
    ),
    "scores that are added to their own transpose": (
        _bmm("t3 = Transpose <perm = [0, 2, 1]> (s) m = Add (t3, s) p = Softmax <axis = -1> (m)"),
        None,
    ),
    "a mask whose rows are not those of the scores": (
        _bmm("m = Add (s, low) p = Softmax <axis = -1> (m)"),
        None,
    ),
    "a softmax over another axis": (_bmm("p = Softmax <axis = 1> (s)"), None),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_attention_on_one_axis_stays(case: str) -> None:
    model, reason = REFUSED[case]
    after, result = rewrite(model, FuseAttention(), feeds=_bmm_feeds())
    assert "Attention" not in operators(after)
    assert not result.applied
    assert reason is None or reason in reasons(result)


def test_axes_are_regrouped_only_where_no_atom_is_cut() -> None:
    b, h, d = Atom("b", Dim(1, ("B",))), Atom("h", Dim(2)), Atom("d", Dim(4))
    groups = ((b,), (h, d))
    assert regrouped(groups, (Dim(2, ("B",)), Dim(4))) == ((b, h), (d,))
    assert regrouped(groups, (Dim(1), Dim(1, ("B",)), Dim(2), Dim(1), Dim(4))) == ((), (b,), (h,), (), (d,))
    assert regrouped(groups, (Dim(1, ("B",)), Dim(4), Dim(2))) is None
    assert regrouped(groups, (Dim(1, ("B",)), Dim(2))) is None
    assert regrouped(groups, (Dim(1, ("B",)), Dim(8), Dim(2))) is None
