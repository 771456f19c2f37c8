from __future__ import annotations

import numpy as np
import pytest

from passes.catalogue import default_pipeline
from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_index_arithmetic import FoldIndexArithmetic
from passes.cleanup.fold_shapes import FoldShapes
from passes.cleanup.remove_identities import RemoveIdentities
from tests.support.rewriting import add_weights, graph_from, operators, random_array, rewrite

CONSTANTS = """
    i0 = Constant <value = int64 {0}> ()
    i1 = Constant <value = int64 {1}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    m1 = Constant <value = int64[1] {-1}> ()
    a3 = Constant <value = int64[3] {1, 2, 3}> ()
    a012 = Constant <value = int64[3] {0, 1, 2}> ()
    nb1 = Shape <start = 0, end = 1> (mask)
    ns1 = Shape <start = 1, end = 2> (mask)
    nb = Squeeze (nb1)
    ns = Squeeze (ns1)
"""


def _ops(model) -> list[str]:  # type: ignore[no-untyped-def]
    return [op for op in operators(model) if op != "Constant"]


GRID = """g (bool[B,S] mask) => (bool[B,1,1,S] y) {{
    {constants}
    rb = Range ({start}, nb, i1)
    rs = Range (i0, ns, i1)
    b4 = Unsqueeze (rb, a3)
    s4 = Unsqueeze (rs, a012)
    both = Max (b4, s4)
    shape = Shape (both)
    be = Expand (b4, shape)
    se = Expand (s4, shape)
    b5 = Unsqueeze (be, m1)
    s5 = Unsqueeze (se, m1)
    at = Concat <axis = -1> ({order})
    picked = GatherND (mask, at)
    y = Not (picked)
}}"""


def test_gather_at_every_position_of_a_grid_is_unsqueeze() -> None:
    model = graph_from(GRID.format(constants=CONSTANTS, start="i0", order="b5, s5"))
    after, _ = rewrite(model, FoldIndexArithmetic(), EliminateDeadCode(), is_exact=True)
    assert _ops(after) == ["Unsqueeze", "Not"]


def test_a_grid_that_does_not_start_at_zero_is_another_one() -> None:
    text = GRID.format(constants=CONSTANTS, start="i1", order="b5, s5").replace("bool[B,1,1,S] y", "bool[C,1,1,S] y")
    after, _ = rewrite(graph_from(text), FoldIndexArithmetic(), is_exact=True)
    assert "GatherND" in operators(after)


def test_a_transposed_grid_is_another_one() -> None:
    model = graph_from(GRID.format(constants=CONSTANTS, start="i0", order="s5, b5"))
    feeds = ({"mask": np.eye(4, dtype=bool)},)
    after, _ = rewrite(model, FoldIndexArithmetic(), is_exact=True, feeds=feeds)
    assert "GatherND" in operators(after)


def test_and_with_a_tensor_that_is_true_throughout_is_expand() -> None:
    text = """g (bool[B,S] mask, bool[B,1,1,S] keep) => (bool[B,1,S,S] y) {{
        {constants}
        a013 = Constant <value = int64[3] {{0, 1, 3}}> ()
        rs = Range (i0, ns, i1)
        rows = Unsqueeze (rs, a013)
        above = GreaterOrEqual (rows, {limit})
        both = And (above, keep)
        y = Not (both)
    }}"""
    model = graph_from(text.format(constants=CONSTANTS, limit="i0"))
    after, result = rewrite(model, FoldIndexArithmetic(), FoldShapes(), EliminateDeadCode(), is_exact=True)
    assert _ops(after) == ["Shape", "Concat", "Expand", "Not"] or _ops(after) == ["Shape", "Expand", "Not"]
    model = graph_from(text.format(constants=CONSTANTS, limit="i1"))  # row 0 is not above 1
    after, result = rewrite(model, FoldIndexArithmetic(), is_exact=True)
    assert "And" in operators(after)
    assert not result.applied


EMBEDDING = """g (float[B,S,4] x, int64[B,S] ids, float[3,4] table, float[9,4] positions) => (float[B,S,4] y)
<int64[1,S] cut, int64[B,S] wide> {{
    mask = Cast <to = 9> (ids)
    {constants}
    kinds = Constant <value = int64[1,9] {{{kinds}}}> ()
    numbers = Constant <value = int64[1,9] {{0, 1, 2, 3, 4, 5, 6, 7, 8}}> ()
    cut = Slice (numbers, v0, ns1, v1, v1)
    kind = GatherElements <axis = 1> (kinds, cut)
    shape = Shape (ids)
    wide = Expand (kind, shape)
    e = Gather <axis = 0> (table, wide)
    p = Gather <axis = 0> (positions, cut)
    a = Add (x, e)
    y = Add (a, p)
}}"""


def test_one_kind_throughout_is_one_row_and_positions_are_a_slice() -> None:
    model = graph_from(EMBEDDING.format(constants=CONSTANTS, kinds="2, 2, 2, 2, 2, 2, 2, 2, 2"))
    add_weights(model, table=random_array(3, 4), positions=random_array(9, 4, seed=1))
    steps = (FoldIndexArithmetic(), RemoveIdentities(), EliminateDeadCode())
    after, _ = rewrite(model, *steps, is_exact=True)
    assert "Gather" not in operators(after)
    assert "GatherElements" not in operators(after)
    assert operators(after).count("Slice") == 1


def test_kinds_that_differ_stay() -> None:
    model = graph_from(EMBEDDING.format(constants=CONSTANTS, kinds="2, 2, 2, 2, 2, 1, 1, 1, 1"))
    add_weights(model, table=random_array(3, 4), positions=random_array(9, 4, seed=1))
    after, _ = rewrite(model, FoldIndexArithmetic(), is_exact=True)
    assert operators(after).count("GatherElements") == 1


ALL_ROWS = """g (bool[B,S] m) => (bool[B,1,1,S] y) {{
    i0 = Constant <value = int64 {{0}}> () i1 = Constant <value = int64 {{1}}> ()
    v0 = Constant <value = int64[1] {{0}}> () v123 = Constant <value = int64[3] {{1, 2, 3}}> ()
    v012 = Constant <value = int64[3] {{0, 1, 2}}> () all = Constant <value = int64[1] {{-1}}> ()
    s = Shape (m) b = Gather (s, i0) n = Gather (s, i1) n1 = Unsqueeze (n, v0)
    rb = Range (i0, b, i1) rs = Range ({start}, {stop}, i1)
    ub = Unsqueeze (rb, v123) us = Unsqueeze (rs, v012)
    k = Mul (ub, {factor}) index = Add (us, k)
    f = Flatten <axis = 2> (m) g = Gather (f, index) flat = Reshape (g, all)
    shape = Shape (index) y = Reshape (flat, shape)
}}"""
ROWS_FEEDS = tuple(
    {"m": np.arange(rows * columns).reshape(rows, columns) % 3 == 0} for rows, columns in ((3, 3), (2, 5), (4, 2))
)


def test_gather_of_all_rows_in_order_is_reshape() -> None:
    model = graph_from(ALL_ROWS.format(start="i0", stop="n", factor="n1"))
    after, _ = rewrite(model, FoldIndexArithmetic(), EliminateDeadCode(), feeds=ROWS_FEEDS)
    assert "Gather" not in [node.op_type for node in after.graph if node.outputs[0].name == "g"]
    model = graph_from(ALL_ROWS.format(start="i0", stop="n", factor="n1"))
    after, _ = rewrite(model, *default_pipeline().steps, feeds=ROWS_FEEDS)  # type: ignore[arg-type]
    assert _ops(after) == ["Unsqueeze"] or _ops(after) == ["Reshape"]


@pytest.mark.parametrize(
    ("start", "stop", "factor"),
    [("i0", "n", "b1"), ("i1", "n", "n1"), ("i0", "b", "n1"), ("i0", "n", "v0")],
    ids=["stride of the wrong axis", "not from zero", "another length", "no stride"],
)
def test_other_orders_of_rows_stay(start: str, stop: str, factor: str) -> None:
    text = ALL_ROWS.format(start=start, stop=stop, factor=factor).replace("rb = ", "b1 = Unsqueeze (b, v0) rb = ")
    text = text.replace("bool[B,1,1,S] y", "bool[P,Q,R,T] y")
    feeds = ({"m": np.arange(4).reshape(2, 2) % 3 == 0},)
    after, result = rewrite(graph_from(text), FoldIndexArithmetic(), feeds=feeds)
    assert "gather-all-rows" not in [event.rule for event in result.applied]
    assert "Gather" in [node.op_type for node in after.graph if node.outputs[0].name == "g"]
