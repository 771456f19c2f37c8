from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.cleanup.merge_clips import MergeClips
from passes.matching import constant_number, input_at
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = """
    zero = Constant <value = float {0.0}> () six = Constant <value = float {6.0}> ()
    half = Constant <value = float {0.5}> () low = Constant <value = float {-0.5}> ()
    far = Constant <value = float {9.0}> ()
"""


def _model(body: str, more: str = "") -> ir.Model:
    return graph_from(f"g (float[N,3] x, float bound) => (float[N,3] y{more}) {{ {CONSTANTS} {body} }}")


MERGED = {
    "clip clip": ("a = Clip (x, low, six) y = Clip (a, zero, half)", "Clip", (0.0, 0.5)),
    "apart below": ("a = Clip (x, low, zero) y = Clip (a, half, six)", "Clip", (0.5, 0.5)),
    "apart above": ("a = Clip (x, half, six) y = Clip (a, low, zero)", "Clip", (0.0, 0.0)),
    "relu clip": ("a = Relu (x) y = Clip (a, low, six)", "Clip", (0.0, 6.0)),
    "clip relu": ("a = Clip (x, low, half) y = Relu (a)", "Clip", (0.0, 0.5)),
    "one-sided": ("a = Clip (x, low) y = Clip (a, , half)", "Clip", (-0.5, 0.5)),
    "two below": ("a = Clip (x, low) y = Relu (a)", "Relu", None),
}


@pytest.mark.parametrize(("body", "op_type", "bounds"), MERGED.values(), ids=MERGED)
def test_two_bounds_are_one(body: str, op_type: str, bounds: tuple[float, float] | None) -> None:
    after, _ = rewrite(_model(body), MergeClips(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == [op_type]
    if bounds is not None:
        node = list(after.graph)[-1]
        assert tuple(constant_number(input_at(node, index)) for index in (1, 2)) == bounds
    assert rewrite(after, MergeClips())[1].applied == ()


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("a = Neg (x) b = Clip (a) y = Exp (b)", ["Neg", "Exp"]),
        ("a = Relu (x) y = Relu (a)", ["Relu"]),
        ("a = Sigmoid (x) y = Relu (a)", ["Sigmoid"]),
        ("a = Clip (x, zero, six) y = Relu (a)", ["Clip"]),
    ],
)
def test_what_bounds_nothing_goes(body: str, left: list[str]) -> None:
    after, _ = rewrite(_model(body), MergeClips(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == left


def test_the_first_stays_where_something_else_reads_it() -> None:
    after, _ = rewrite(
        _model("a = Clip (x, low, six) y = Clip (a, zero, half) z = Neg (a)", ", float[N,3] z"), MergeClips()
    )
    assert [op for op in operators(after) if op != "Constant"] == ["Clip", "Clip", "Neg"]
    assert all(node.inputs[0] is after.graph.inputs[0] for node in after.graph if node.op_type == "Clip")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("a = Clip (x, low, bound) y = Clip (a, zero, half)", "'bound' is not constant"),
        ("a = Clip (x, low, half) y = Clip (a, six, zero)", "wrong order"),
        ("y = Clip (x)", "it joins 'x' to the output 'y'"),
    ],
)
def test_refusals(body: str, reason: str) -> None:
    _, result = rewrite(_model(body), MergeClips())
    assert not result.applied
    assert reason in reasons(result)[0]


def test_relu_of_what_may_be_negative_stays() -> None:
    _, result = rewrite(_model("a = Tanh (x) y = Relu (a)"), MergeClips())
    assert not result.applied


@pytest.mark.parametrize("body", ["a = Clip (x, zero, low) y = Relu (a)", "a = Clip (x, zero, bound) y = Relu (a)"])
def test_relu_after_an_upper_bound_below_zero_stays(body: str) -> None:
    after, result = rewrite(_model(body), MergeClips(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Clip", "Relu"]
    assert not result.applied
