from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from passes.cleanup.fold_shapes import FoldShapes, constant_shape
from passes.dimensions import Dim
from passes.matching import constant_array
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = """
    i0 = Constant <value = int64 {0}> ()
    i1 = Constant <value = int64 {1}> ()
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v2 = Constant <value = int64[1] {2}> ()
    m1 = Constant <value = int64[1] {-1}> ()
    h = Constant <value = int64[1] {4}> ()
    d = Constant <value = int64[1] {3}> ()
"""


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op != "Constant"]


def test_a_head_split_needs_no_shape_arithmetic_and_stays_symbolic() -> None:
    model = graph_from(
        f"""g (float[B,S,12] x) => (float[B,S,4,3] y) {{
            {CONSTANTS}
            s = Shape (x)
            b = Gather <axis = 0> (s, i0)
            b1 = Unsqueeze (b, v0)
            n = Slice (s, v1, v2)
            want = Concat <axis = 0> (b1, n, h, d)
            y = Reshape (x, want)
        }}"""
    )
    after, _ = rewrite(model, FoldShapes(), is_exact=True)
    assert _ops(after) == ["Reshape"]
    assert constant_array(after.graph.node(-1).inputs[1]).tolist() == [0, 0, 4, 3]
    assert str(after.graph.outputs[0].shape) == "[B,S,4,3]"


def test_one_symbol_out_of_place_becomes_what_is_left() -> None:
    model = graph_from(
        f"""g (float[B,S,12] x) => (float[T,12] y) {{
            {CONSTANTS}
            s = Shape (x)
            b = Gather <axis = 0> (s, v0)
            n = Gather <axis = 0> (s, v1)
            t = Mul (b, n)
            w = Gather <axis = 0> (s, v2)
            want = Concat <axis = 0> (t, w)
            y = Reshape (x, want)
        }}"""
    )
    after, _ = rewrite(model, FoldShapes(), EliminateDeadCode(), is_exact=True)
    assert _ops(after) == ["Reshape"]
    assert constant_array(after.graph.node(-1).inputs[1]).tolist() == [-1, 12]


def test_two_symbols_out_of_place_are_refused() -> None:
    model = graph_from(
        f"""g (float[S,12,B] x) => (float[B,S,12] y) {{
            {CONSTANTS}
            s = Shape (x)
            b = Gather <axis = 0> (s, v2)
            n = Gather <axis = 0> (s, v0)
            w = Gather <axis = 0> (s, v1)
            want = Concat <axis = 0> (b, n, w)
            y = Reshape (x, want)
        }}"""
    )
    after, result = rewrite(model, FoldShapes(), is_exact=True)
    assert "Concat" in operators(after)
    assert reasons(result) == ["two dimensions of [B, S, 12] are not those of its input"]


def test_the_same_dimensions_are_computed_once() -> None:
    model = graph_from(
        """g (float[B,3] x, float[B,3] z) => (float[B,3] y, int64[2] s) {
            r = Relu (x)
            a = Shape (x)
            b = Shape (r)
            c = Shape (z)
            e = Expand (z, b)
            f = Expand (e, c)
            y = Add (f, r)
            s = Add (a, a)
        }"""
    )
    after, result = rewrite(model, FoldShapes(), is_exact=True)
    assert operators(after).count("Shape") == 1
    assert [event.rule for event in result.applied] == ["repeated", "repeated"]


def test_the_expand_idiom_of_the_older_exporter_is_seen_through() -> None:
    model = graph_from(
        f"""g (float[B,3] x, float[1,3] z) => (float[B,3] y) {{
            {CONSTANTS}
            s = Shape (x)
            n = Shape (s)
            ones = ConstantOfShape <value = int64[1] {{1}}> (n)
            k = Constant <value = int64 {{-1}}> ()
            m = Mul (ones, k)
            is_m = Equal (s, m)
            want = Where (is_m, ones, s)
            y = Expand (z, want)
        }}"""
    )
    after, _ = rewrite(model, FoldShapes(), EliminateDeadCode(), is_exact=True)
    assert _ops(after) == ["Shape", "Expand"]


def test_shapes_that_are_all_known_become_constants() -> None:
    model = graph_from(
        """g (float[2,3] x) => (int64[1] y) {
            s = Shape (x)
            p = ReduceProd <keepdims = 1> (s)
            y = Neg (p)
        }"""
    )
    after, _ = rewrite(model, FoldShapes(), is_exact=True)
    assert operators(after) == ["Neg"]


def test_a_shape_that_is_an_output_stays() -> None:
    model = graph_from("g (float[2,3] x) => (int64[2] y) { y = Shape (x) }")
    after, result = rewrite(model, FoldShapes(), is_exact=True)
    assert operators(after) == ["Shape"]
    assert reasons(result) == ["'y' is an output of the graph"]


def test_unknown_dimensions_are_followed_but_not_named_in_the_file() -> None:
    model = graph_from(
        f"""g (float[N] x, bool[N] keep) => (float[?,1] y) {{
            {CONSTANTS}
            c = Compress (x, keep)
            s = Shape (c)
            want = Concat <axis = 0> (s, v1)
            y = Reshape (c, want)
        }}"""
    )
    after, _ = rewrite(model, FoldShapes(), is_exact=True)
    assert _ops(after) == ["Compress", "Reshape"]
    assert "?" not in {str(dim) for value in after.graph.node(-2).outputs for dim in value.shape or ()}


B, S = Dim(1, ("B",)), Dim(1, ("S",))


@pytest.mark.parametrize(
    ("before", "wanted", "allow_zero", "expected"),
    [
        ((B, S), (B, S), False, [0, 0]),
        ((B, S), (S, B), False, "two dimensions of [S, B] are not those of its input"),
        ((B, S), (B, S, Dim(1)), True, [0, 0, 1]),
        ((B, S), (Dim(0), Dim(-1)), False, [0, -1]),
        ((B, S), (Dim(0), B), True, "it asks for a dimension of length 0"),
        (None, (None, Dim(4)), False, [-1, 4]),
        ((B,), (Dim(-1), None), False, "two dimensions of [-1, None] are not those of its input"),
    ],
)
def test_constant_shape(before: object, wanted: object, allow_zero: bool, expected: object) -> None:
    assert constant_shape(before, wanted, allow_zero=allow_zero) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("axes", ["", ", none"])
def test_a_reduction_told_to_reduce_nothing_is_no_product(axes: str) -> None:
    model = graph_from(
        f"""g (float[2,3] x) => (int64[2] y) {{
            none = Constant <value = int64[0] {{}}> () s = Shape (x)
            p = ReduceProd <noop_with_empty_axes = 1> (s{axes}) y = Neg (p) }}"""
    )
    after, _ = rewrite(model, FoldShapes(), is_exact=True)
    assert "ReduceProd" in operators(after)
