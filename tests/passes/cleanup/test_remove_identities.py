from __future__ import annotations

import pytest

from passes.cleanup.remove_identities import RULES, RemoveIdentities
from tests.support.rewriting import graph_from, operators, reasons, rewrite

CONSTANTS = """
    zero = Constant <value = float {0.0}> ()
    zeros = Constant <value = float[1,3] {0.0, 0.0, 0.0}> ()
    one = Constant <value = float {1.0}> ()
    ones = Constant <value = float[3] {1.0, 1.0, 1.0}> ()
    ones5 = Constant <value = float[5,1,1] {1.0, 1.0, 1.0, 1.0, 1.0}> ()
    i0 = Constant <value = int64[1] {0}> ()
    i1 = Constant <value = int64[1] {1}> ()
    big = Constant <value = int64[1] {9223372036854775807}> ()
    pads = Constant <value = int64[4] {0, 0, 0, 0}> ()
    same = Constant <value = int64[2] {0, 3}> ()
    ones_shape = Constant <value = int64[2] {1, 3}> ()
    wide = Constant <value = int64[2] {2, 1}> ()
    reps = Constant <value = int64[2] {1, 1}> ()
    yes = Constant <value = bool[1] {1}> ()
    no = Constant <value = bool[1] {0}> ()
"""

UNCHANGED = {
    "Identity": "Identity (r)",
    "Dropout": "Dropout (r)",
    "Cast": "Cast <to = 1> (r)",
    "Transpose": "Transpose <perm = [0, 1]> (r)",
    "Reshape": "Reshape (r, same)",
    "Slice": "Slice (r, i0, big, i1)",
    "Pad": "Pad (r, pads)",
    "Expand": "Expand (r, ones_shape)",
    "Flatten": "Flatten <axis = 1> (r)",
    "Concat": "Concat <axis = 1> (r)",
    "Sum": "Sum (r)",
    "Max": "Max (r)",
    "Min": "Min (r)",
    "Mean": "Mean (r)",
    "Add": "Add (zeros, r)",
    "Sub": "Sub (r, zero)",
    "Mul": "Mul (r, ones)",
    "Div": "Div (r, one)",
    "Pow": "Pow (r, one)",
}
BOOLEAN = {"And": "And (yes, b)", "Or": "Or (b, no)"}
MADE_BY_SHAPE = {"Squeeze", "Tile", "Unsqueeze"}  # these change nothing only where shapes say so


def _model(expression: str) -> str:
    return f"""g (float[N,3] x) => (float[N,3] y) {{
        {CONSTANTS}
        r = Relu (x)
        u = {expression}
        y = Neg (u)
    }}"""


@pytest.mark.parametrize("expression", UNCHANGED.values(), ids=UNCHANGED)
def test_an_operator_that_changes_nothing_goes(expression: str) -> None:
    after, result = rewrite(graph_from(_model(expression)), RemoveIdentities(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Relu", "Neg"]
    assert len(result.applied) == 1


@pytest.mark.parametrize("expression", BOOLEAN.values(), ids=BOOLEAN)
def test_a_boolean_operator_that_changes_nothing_goes(expression: str) -> None:
    text = f"""g (float[N,3] x) => (bool[N,3] y) {{
        {CONSTANTS}
        b = Greater (x, zero)
        u = {expression}
        y = Not (u)
    }}"""
    after, _ = rewrite(graph_from(text), RemoveIdentities(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Greater", "Not"]


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == set(UNCHANGED) | set(BOOLEAN) | MADE_BY_SHAPE | {"BitShift"}


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("Cast <to = 11> (r)", "double[N,3]"),
        ("Transpose <perm = [1, 0]> (r)", "float[3,N]"),
        ("Slice (r, i1, big, i1)", "float[N,2]"),
        ("Add (r, one)", "float[N,3]"),
        ("Mul (r, ones5)", "float[5,N,3]"),  # x * 1 with a shape that grows
        ("Expand (r, wide)", "float[M,3]"),
        ("Sub (zero, r)", "float[N,3]"),
        ("Div (one, r)", "float[N,3]"),
    ],
)
def test_an_operator_that_changes_something_stays(expression: str, kind: str) -> None:
    text = _model(expression).replace("=> (float[N,3] y)", f"=> ({kind} y)")
    model = graph_from(text.replace("float[N,3] x", "float[1,3] x") if "wide" in expression else text)
    _, result = rewrite(model, RemoveIdentities(), is_exact=True)
    assert not result.applied


def test_the_names_of_inputs_and_outputs_stay() -> None:
    model = graph_from("g (float[2] x) => (float[2] y, float[2] z) { y = Identity (x) r = Relu (x) z = Identity (r) }")
    after, result = rewrite(model, RemoveIdentities(), is_exact=True)
    assert operators(after) == ["Identity", "Relu"]
    assert after.graph.outputs[1].producer().op_type == "Relu"
    assert reasons(result) == ["it joins 'x' to the output 'y'"]


def test_dropout_in_training_stays() -> None:
    model = graph_from(
        """g (float[2] x) => (float[2] y) {
            ratio = Constant <value = float {0.0}> ()
            train = Constant <value = bool {1}> ()
            d = Dropout (x, ratio, train)
            y = Relu (d)
        }"""
    )
    _, result = rewrite(model, RemoveIdentities())
    assert not result.applied


def test_a_reader_that_broadcasts_needs_no_expand() -> None:
    model = graph_from(
        """g (float[N,3] x, float[N,1] d) => (float[N,3] y) {
            s = Shape (x)
            e = Expand (d, s)
            y = Div (x, e)
        }"""
    )
    after, result = rewrite(model, RemoveIdentities(), is_exact=True)
    assert operators(after) == ["Div"]
    assert [event.rule for event in result.applied] == ["broadcast-implies-expand"]


def test_an_expand_that_makes_the_result_larger_stays() -> None:
    model = graph_from(
        """g (float[1,3] x, float[1,1] d, int64[2] s) => (float[M,3] y) {
            e = Expand (d, s)
            y = Div (x, e)
        }"""
    )
    import numpy as np

    feeds = ({"x": np.ones((1, 3), np.float32), "d": np.ones((1, 1), np.float32), "s": np.array([4, 3])},)
    _, result = rewrite(model, RemoveIdentities(), feeds=feeds)
    assert not result.applied


def test_a_shift_by_zero_is_nothing() -> None:
    model = graph_from(
        """g (uint32[2,3] x) => (uint32[2,3] y) { z = Constant <value = uint32 {0}> ()
            o = Constant <value = uint32 {1}> () a = BitShift <direction = "LEFT"> (x, z)
            y = BitShift <direction = "RIGHT"> (a, o) }"""
    )
    after, _ = rewrite(model, RemoveIdentities(), is_exact=True)
    assert operators(after).count("BitShift") == 1
