from __future__ import annotations

import numpy as np
import pytest

from passes.cleanup.merge_reshapes import MergeReshapes
from passes.matching import constant_array
from tests.support.golden import assert_rewritten
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = """
    v0 = Constant <value = int64[1] {0}> ()
    v1 = Constant <value = int64[1] {1}> ()
    v02 = Constant <value = int64[2] {0, 2}> ()
    flat = Constant <value = int64[1] {-1}> ()
    back = Constant <value = int64[2] {-1, 6}> ()
    keep = Constant <value = int64[2] {0, -1}> ()
    three = Constant <value = int64[3] {-1, 4, 6}> ()
    four = Constant <value = int64[4] {2, 3, 6, 4}> ()
"""


@pytest.mark.parametrize(
    ("first", "second", "shape_in", "shape_out", "left"),
    [
        ("Transpose <perm = [1, 2, 0]> (x)", "Transpose <perm = [0, 2, 1]> (a)", "N,2,3", "2,N,3", ["Transpose"]),
        ("Reshape (x, flat)", "Reshape (a, back)", "N,2,3", "N,6", ["Reshape"]),
        ("Reshape (x, back)", "Reshape (a, keep)", "N,2,3", "N,6", ["Reshape"]),
        ("Unsqueeze (x, v0)", "Unsqueeze (a, v02)", "N,3", "1,1,1,N,3", ["Unsqueeze"]),
        ("Unsqueeze (x, v1)", "Unsqueeze (a, v0)", "N,3", "1,N,1,3", ["Unsqueeze"]),
        ("Squeeze (x, v0)", "Squeeze (a, v1)", "1,N,1,3", "N,3", ["Squeeze"]),
        ("Cast <to = 11> (x)", "Cast <to = 6> (a)", "N,3", "N,3", ["Cast"]),
    ],
)
def test_two_become_one(first: str, second: str, shape_in: str, shape_out: str, left: list[str]) -> None:
    kind = "int32" if "to = 6" in second else "float"
    model = graph_from(
        f"""g (float[{shape_in}] x) => ({kind}[{shape_out}] y) {{
            {CONSTANTS}
            a = {first}
            b = {second}
            y = Identity (b)
        }}"""
    )
    after, result = rewrite(model, MergeReshapes(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == [*left, "Identity"]
    assert len(result.applied) == 1


def test_the_axes_of_two_unsqueezes_are_composed() -> None:
    model = graph_from(
        f"""g (float[N,3] x) => (float[1,N,1,3] y) {{
            {CONSTANTS}
            a = Unsqueeze (x, v1)
            y = Unsqueeze (a, v0)
        }}"""
    )
    after, _ = rewrite(model, MergeReshapes(), is_exact=True)
    assert constant_array(after.graph.node(-1).inputs[1]).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ("Cast <to = 6> (x)", "Cast <to = 1> (a)", "float"),  # rounds
        ("Cast <to = 10> (x)", "Cast <to = 11> (a)", "double"),  # loses digits
        ("Cast <to = 9> (x)", "Cast <to = 1> (a)", "float"),  # becomes 0 or 1
    ],
)
def test_a_cast_that_loses_something_stays(first: str, second: str, kind: str) -> None:
    model = graph_from(f"g (float[N] x) => ({kind}[N] y) {{ a = {first} y = {second} }}")
    _, result = rewrite(model, MergeReshapes(), is_exact=True)
    assert not result.applied


def test_a_zero_that_copies_from_the_middle_shape_is_spelled_out() -> None:
    model = graph_from(
        f"""g (float[N,4,6] x) => (float[M,?] y) {{
            {CONSTANTS}
            a = Reshape (x, back)
            y = Reshape (a, keep)
        }}"""
    )
    after, result = rewrite(model, MergeReshapes(), is_exact=True)
    assert [event.rule for event in result.applied] == ["moves"]
    (reshape,) = [node for node in after.graph if node.op_type == "Reshape" and node.outputs[0].name == "y"]
    assert reshape.inputs[0] is after.graph.inputs[0]


MIXED = {
    "flatten, reshape": "a = Flatten <axis = 2> (x) y = Reshape (a, shape)",
    "reshape, unsqueeze": "a = Reshape (x, flat) y = Unsqueeze (a, ends)",
    "unsqueeze, squeeze": "a = Unsqueeze (x, ends) y = Squeeze (a, zero)",
    "squeeze, unsqueeze": "u = Unsqueeze (x, zero) r = Relu (u) a = Squeeze (r, zero) y = Unsqueeze (a, ends)",
    "reshape, flatten": "a = Reshape (x, shape) y = Flatten <axis = 1> (a)",
}


@pytest.mark.parametrize("body", MIXED.values(), ids=MIXED)
def test_what_only_moves_elements_is_one_reshape(body: str) -> None:
    model = graph_from(
        f"""g (float[N,4,6] x) => (float y) {{
            shape = Constant <value = int64[4] {{-1, 4, 2, 3}}> ()
            flat = Constant <value = int64[2] {{-1, 24}}> ()
            zero = Constant <value = int64[1] {{0}}> ()
            ends = Constant <value = int64[2] {{0, 2}}> ()
            {body}
        }}"""
    )
    model.graph.outputs[0].shape = None
    after, result = rewrite(model, MergeReshapes(), is_exact=True)
    moved = [op for op in operators(after) if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")]
    assert moved == (["Unsqueeze", "Reshape"] if "Relu" in body else ["Reshape"])
    assert [event.rule for event in result.applied] == ["moves"] or "reshape" in result.applied[0].rule


def test_two_symbols_that_no_constant_can_ask_for_stop_the_merge() -> None:
    model = graph_from(
        """g (float[N,M,K] x) => (float[P,1,Q,R] y) {
            all = Constant <value = int64[1] {-1}> ()
            one = Constant <value = int64[1] {1}> ()
            s = Shape (x)
            a = Reshape (x, all)
            b = Reshape (a, s)
            y = Unsqueeze (b, one)
        }"""
    )
    after, _ = rewrite(model, MergeReshapes(), is_exact=True)
    assert operators(after)[-2:] == ["Reshape", "Unsqueeze"]
    blind = graph_from(
        """g (float[N,M,K] x, int64[3] s) => (float[P,1,Q,R] y) {
            one = Constant <value = int64[1] {1}> ()
            b = Reshape (x, s)
            y = Unsqueeze (b, one)
        }"""
    )
    feeds = tuple({"x": np.ones((2, 3, 4), np.float32), "s": np.array([3, 2, 4])} for _ in range(2))
    _, result = rewrite(blind, MergeReshapes(), is_exact=True, feeds=feeds)
    assert not result.applied


TRANSPOSED = """g (float[2,3,4,6] x) => (float[2,3,6,4] y{}) {{
    {}
    a = Reshape (x, three)
    b = Transpose <perm = [0, 2, 1]> (a)
    y = Reshape (b, four)
    {}
}}"""


def test_leading_axes_folded_away_and_back_are_a_transpose() -> None:
    after, result = rewrite(graph_from(TRANSPOSED.format("", CONSTANTS, "")), MergeReshapes(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Transpose"]
    assert [event.rule for event in result.applied] == ["reshape-transpose-reshape"]


def test_a_middle_value_with_another_reader_is_refused() -> None:
    model = graph_from(TRANSPOSED.format(", float[6,6,4] z", CONSTANTS, "z = Neg (b)"))
    after, result = rewrite(model, MergeReshapes(), is_exact=True)
    assert "Reshape" in operators(after)
    assert reasons(result) == ["output 'b' also feeds z"]


def test_the_first_of_two_stays_for_its_other_readers() -> None:
    model = graph_from(
        """g (float[2,3] x) => (float[2,3] y, float[3,2] z) {
            a = Transpose <perm = [1, 0]> (x)
            y = Transpose <perm = [1, 0]> (a)
            z = Neg (a)
        }"""
    )
    after, _ = rewrite(model, MergeReshapes(), is_exact=True)
    assert operators(after) == ["Transpose", "Transpose", "Neg"]
    assert after.graph.node(1).inputs[0].name == "x"


def test_a_cast_like_of_a_known_type_is_a_cast() -> None:
    assert_rewritten(
        "g (float[N] x, float16[2] like) => (float16[N] y) { y = CastLike (x, like) }",
        "merge-reshapes",
        "y = Cast <to: int = 10> (x)",
        opset=18,
    )


def test_a_cast_like_keeps_how_it_saturates() -> None:
    assert_rewritten(
        "g (float[N] x, float8e4m3fn[2] like) => (float8e4m3fn[N] y) { y = CastLike <saturate = 0> (x, like) }",
        "merge-reshapes",
        "y = Cast <saturate: int = 0, to: int = 17> (x)",
        is_run=False,  # no runtime here compares eight-bit floats
    )


def test_casts_take_every_attribute_of_cast_like() -> None:
    import onnx

    for opset in range(15, onnx.defs.onnx_opset_version() + 1):
        cast, like = (set(onnx.defs.get_schema(op_type, opset, "").attributes) for op_type in ("Cast", "CastLike"))
        assert cast == like | {"to"}


def test_a_cast_like_of_an_unknown_type_stays() -> None:
    import onnx_ir as ir

    model = graph_from("g (float[N] x, float16[2] like) => (float16[N] y) { y = CastLike (x, like) }")
    model.graph.inputs[1].type = None
    from passes.base import Context
    from passes.cleanup.merge_reshapes import MergeReshapes

    assert not MergeReshapes().run(model, Context()).applied
    assert isinstance(model.graph.outputs[0].type, ir.TensorType)
