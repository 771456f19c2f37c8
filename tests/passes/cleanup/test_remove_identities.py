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
    assert set(RULES) == set(UNCHANGED) | set(BOOLEAN) | MADE_BY_SHAPE | {"BitShift", "Resize", "Upsample"}


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


RESIZE = """g (float[1,C,4,5] x, {inputs}) => (float[1,C,4,5] y) {{
    ones = Constant <value = float[{count}] {{{values}}}> ()
    r = Relu (x)
    {sizes}
    u = Resize <{attributes}> (r, {given})
    y = Neg (u)
}}"""
FULL = {"count": 4, "values": "1.0, 1.0, 1.0, 1.0", "inputs": "float[1] other", "sizes": "", "given": '"", ones'}
PLANE = {**FULL, "count": 2, "values": "1.0, 1.0"}


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(
    "place", ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
)
@pytest.mark.parametrize("nearest", ["round_prefer_floor", "ceil"])
def test_a_resize_by_one_goes_in_every_mode_that_keeps_the_place(mode: str, place: str, nearest: str) -> None:
    attributes = f'mode = "{mode}", coordinate_transformation_mode = "{place}", nearest_mode = "{nearest}"'
    after, result = rewrite(graph_from(RESIZE.format(attributes=attributes, **FULL)), RemoveIdentities(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Relu", "Neg"]
    assert [event.rule for event in result.applied] == ["Resize"]


@pytest.mark.parametrize(
    ("attributes", "changes"),
    [
        ("axes = [2, 3]", PLANE),
        ('mode = "linear", antialias = 1, axes = [2, 3]', PLANE),
        ('mode = "nearest"', {**FULL, "sizes": "s = Shape (r)", "given": '"", "", s'}),
        (
            'mode = "cubic", axes = [-1, -2]',
            {**FULL, "sizes": "s = Constant <value = int64[2] {5, 4}> ()", "given": '"", "", s'},
        ),
    ],
)
def test_a_resize_to_the_own_size_goes(attributes: str, changes: dict[str, object]) -> None:
    after, _ = rewrite(graph_from(RESIZE.format(attributes=attributes, **changes)), RemoveIdentities())
    assert "Resize" not in operators(after)


@pytest.mark.parametrize(
    ("attributes", "changes"),
    [
        ('coordinate_transformation_mode = "tf_half_pixel_for_nn"', FULL),
        ("axes = [2, 3]", {**PLANE, "values": "1.0, 2.0"}),
        (
            'mode = "nearest"',
            {**FULL, "sizes": "s = Constant <value = int64[4] {1, 3, 4, 6}> ()", "given": '"", "", s'},
        ),
        ('mode = "nearest"', {**FULL, "inputs": "int64[4] s", "given": '"", "", s'}),
    ],
)
def test_another_resize_stays(attributes: str, changes: dict[str, object]) -> None:
    import numpy as np

    text = RESIZE.format(attributes=attributes, **changes).replace("=> (float[1,C,4,5] y)", "=> (float[1,C,H,W] y)")
    feeds = ({"x": np.ones((1, 3, 4, 5), np.float32), "other": np.ones(1, np.float32), "s": np.array([1, 3, 4, 5])},)
    _, result = rewrite(graph_from(text), RemoveIdentities(), feeds=feeds)
    assert not result.applied


def test_an_upsample_by_one_goes() -> None:
    model = graph_from(
        """g (float[1,2,4,5] x) => (float[1,2,4,5] y) { ones = Constant <value = float[4] {1.0, 1.0, 1.0, 1.0}> ()
            r = Relu (x) u = Upsample <mode = "linear"> (r, ones) y = Neg (u) }""",
        opset=9,
    )
    after, _ = rewrite(model, RemoveIdentities(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == ["Relu", "Neg"]


def test_a_slice_up_to_the_length_that_a_shape_tells_goes() -> None:
    model = graph_from(
        """g (float[B,S,3] x) => (float[B,S,3] y) {
            zero = Constant <value = int64[1] {0}> () one = Constant <value = int64[1] {1}> ()
            r = Relu (x)
            s = Shape <start = 1, end = 2> (x)
            c = Slice (r, zero, s, one)
            y = Neg (c)
        }"""
    )
    after, _ = rewrite(model, RemoveIdentities(), is_exact=True)
    assert "Slice" not in operators(after)


EXPANDED = """g (float[B,1,S] a, float[B,S,1] b, bool[1,S,S] c, float[B,S,S] full) => (float[B,S,S] y) {{
    shape = Shape (full)
    e = Expand (a, shape)
    f = Expand (b, shape)
    y = {reader}
}}"""


@pytest.mark.parametrize("reader", ["Add (e, b)", "Where (c, e, b)", "Sum (e, b, a)", "Mul (e, f)"])
def test_operands_that_broadcast_to_the_result_together_need_no_expand(reader: str) -> None:
    import numpy as np

    shapes = {"a": (2, 1, 3), "b": (2, 3, 1), "full": (2, 3, 3)}
    feeds = (
        {name: np.random.rand(*shape).astype(np.float32) for name, shape in shapes.items()}
        | {"c": np.tri(3, dtype=bool)[None]},
    )
    after, result = rewrite(graph_from(EXPANDED.format(reader=reader)), RemoveIdentities(), feeds=feeds, is_exact=True)
    assert sum(op == "Expand" for op in operators(after)) <= 1
    assert result.applied


def test_an_expand_that_gives_the_result_its_batch_stays() -> None:
    import numpy as np

    model = graph_from(
        EXPANDED.format(reader="Add (e, c2)")
        .replace("e = Expand", "c2 = Cast <to = 1> (c) e = Expand")
        .replace("float[B,1,S] a", "float[1,1,S] a")
    )
    shapes = {"a": (1, 1, 3), "b": (2, 3, 1), "full": (2, 3, 3)}
    feeds = ({name: np.ones(shape, np.float32) for name, shape in shapes.items()} | {"c": np.tri(3, dtype=bool)[None]},)
    after, _ = rewrite(model, RemoveIdentities(), feeds=feeds)
    assert any(node.op_type == "Expand" and node.inputs[0].name == "a" for node in after.graph)
