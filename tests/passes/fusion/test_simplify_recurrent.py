from __future__ import annotations

import onnx_ir as ir
import pytest

from passes.fusion.simplify_recurrent import SimplifyRecurrent
from tests.support.rewriting import add_weights, graph_from, operators, random_array, reasons, rewrite

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _model(  # type: ignore[no-untyped-def]
    body: str, *, kind: str = "LSTM", directions: int = 1, outputs: str = "float[T,B,8] y", inputs: str = ""
):
    rows = 8 * GATES[kind]
    text = f"""g (float[T,B,4] x, float[{directions},{rows},4] w, float[{directions},{rows},8] r,
        float[{directions},{2 * rows}] b{inputs}) => ({outputs}) {{ {body} }}"""
    return add_weights(
        graph_from(text),
        w=random_array(directions, rows, 4),
        r=random_array(directions, rows, 8, seed=1),
        b=random_array(directions, 2 * rows, seed=2),
    )


def _ops(model: ir.Model) -> list[str]:
    return [op for op in operators(model) if op not in ("Constant", "Identity")]


FILL = """d = Shape <start = 1, end = 2> (x) one = Constant <value = int64[1] {1}> ()
    eight = Constant <value = int64[1] {8}> () """
ZEROS = {
    "ConstantOfShape": FILL + "e = Concat <axis = 0> (one, d, eight) z = ConstantOfShape (e)",
    "Expand": FILL + "o = Constant <value = float {0.0}> () e = Concat <axis = 0> (one, d, eight) z = Expand (o, e)",
    "Slice": FILL
    + """two = Constant <value = int64[1] {2}> () zero = Constant <value = int64[1] {0}> ()
        e = Concat <axis = 0> (two, d, eight) f = ConstantOfShape (e) z = Slice (f, one, two, zero)""",
    "Concat": FILL
    + """e = Concat <axis = 0> (one, d, eight) f = ConstantOfShape (e) half = Constant <value = int64[2] {4, 4}> ()
        p, q = Split <axis = 2> (f, half) z = Concat <axis = 2> (p, q)""",
}


@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("kind", GATES)
def test_an_initial_state_of_zeros_is_dropped(kind: str, zeros: str) -> None:
    states = ", , z, z" if kind == "LSTM" else ", , z"
    body = f"{ZEROS[zeros]} s = {kind} <hidden_size = 8> (x, w, r, b{states}) y = Identity (s)"
    after, result = rewrite(_model(body, kind=kind, outputs="float[T,1,B,8] y"), SimplifyRecurrent())
    node = next(node for node in after.graph if node.op_type == kind)
    assert len(node.inputs) == 4
    assert "Concat" not in operators(after)
    assert {event.rule for event in result.applied} == {"zero state"}


def test_a_state_with_a_peephole_behind_it_keeps_its_place() -> None:
    body = f"""{ZEROS["ConstantOfShape"]} p = Constant <value = float[1,24] {{{",".join(["0.1"] * 24)}}}> ()
        y = LSTM <hidden_size = 8> (x, w, r, b, , z, z, p)"""
    after, _ = rewrite(_model(body, outputs="float[T,1,B,8] y"), SimplifyRecurrent())
    node = next(node for node in after.graph if node.op_type == "LSTM")
    assert [value is None for value in node.inputs] == [False] * 4 + [True] * 3 + [False]


@pytest.mark.parametrize(
    "body",
    [
        FILL + "v = Constant <value = float[1] {0.5}> () e = Concat <axis = 0> (one, d, eight) z = Expand (v, e)",
        FILL + "e = Concat <axis = 0> (one, d, eight) z = ConstantOfShape <value = float[1] {1.0}> (e)",
        FILL + "e = Concat <axis = 0> (one, d, eight) f = ConstantOfShape (e) z = Cos (f)",
    ],
)
def test_another_initial_state_stays(body: str) -> None:
    after, result = rewrite(
        _model(body + " y = LSTM <hidden_size = 8> (x, w, r, b, , z, z)", outputs="float[T,1,B,8] y"),
        SimplifyRecurrent(),
    )
    assert not result.applied
    assert len(next(node for node in after.graph if node.op_type == "LSTM").inputs) == 7


NODE = "s = LSTM <hidden_size = 8> (x, w, r, b) "
MERGE = "c = Constant <value = int64[3] {0, 0, 8}> () t = Transpose <perm = [0, 2, 1, 3]> (s) "
SQUEEZED = NODE + "a = Constant <value = int64[1] {1}> () q = Squeeze (s, a) "
LAST = "i = Constant <value = int64 {-1}> () "


def test_the_axis_of_one_direction_is_squeezed() -> None:
    after, _ = rewrite(_model(NODE + MERGE + "y = Reshape (t, c)"), SimplifyRecurrent())
    assert _ops(after) == ["LSTM", "Squeeze"]
    again, second = rewrite(after, SimplifyRecurrent())
    assert not second.applied
    assert operators(again) == operators(after)


def test_a_reshape_of_the_sequence_itself_is_a_squeeze_as_well() -> None:
    body = "s = LSTM <hidden_size = 8> (x, w, r, b) c = Constant <value = int64[3] {5, -1, 8}> () y = Reshape (s, c)"
    text = f"""g (float[5,B,4] x, float[1,32,4] w, float[1,32,8] r, float[1,64] b) => (float[5,B,8] y) {{ {body} }}"""
    model = add_weights(
        graph_from(text), w=random_array(1, 32, 4), r=random_array(1, 32, 8, seed=1), b=random_array(1, 64, seed=2)
    )
    after, _ = rewrite(model, SimplifyRecurrent())
    assert _ops(after) == ["LSTM", "Squeeze"]


def test_stacked_nodes_are_squeezed_one_after_the_other() -> None:
    body = (
        NODE
        + MERGE
        + """h = Reshape (t, c) v = LSTM <hidden_size = 8> (h, k, r, b)
        t2 = Transpose <perm = [0, 2, 1, 3]> (v) y = Reshape (t2, c)"""
    )
    model = add_weights(_model(body, inputs=", float[1,32,8] k"), k=random_array(1, 32, 8, seed=5))
    after, _ = rewrite(model, SimplifyRecurrent())
    assert _ops(after) == ["LSTM", "Squeeze", "LSTM", "Squeeze"]


def test_two_directions_are_merged_by_the_transpose_and_the_reshape() -> None:
    body = 's = LSTM <hidden_size = 8, direction = "bidirectional"> (x, w, r, b) ' + MERGE.replace("8}", "16}")
    after, result = rewrite(
        _model(body + "y = Reshape (t, c)", directions=2, outputs="float[T,B,16] y"), SimplifyRecurrent()
    )
    assert _ops(after) == ["LSTM", "Transpose", "Reshape"]
    assert not result.applied


def test_another_reshape_of_the_sequence_is_refused() -> None:
    body = NODE + "c = Constant <value = int64[3] {1, -1, 8}> () y = Reshape (s, c)"
    after, result = rewrite(_model(body, outputs="float[1,M,8] y"), SimplifyRecurrent())
    assert _ops(after) == ["LSTM", "Reshape"]
    assert reasons(result) == ["the result is not provably 's' without its axis of one direction"]


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (SQUEEZED + LAST + "y = Gather <axis = 0> (q, i)", ["LSTM", "Squeeze"]),
        (SQUEEZED + LAST + "b1 = Transpose <perm = [1, 0, 2]> (q) y = Gather <axis = 1> (b1, i)", ["LSTM", "Squeeze"]),
        (NODE + MERGE + LAST + "m = Reshape (t, c) y = Gather <axis = 0> (m, i)", ["LSTM", "Squeeze"]),
    ],
)
def test_the_last_step_is_the_last_state(body: str, left: list[str]) -> None:
    after, result = rewrite(_model(body, outputs="float[B,8] y"), SimplifyRecurrent())
    assert _ops(after) == left
    assert result.applied[-1].rule == "last step"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            SQUEEZED.replace("hidden_size", 'direction = "reverse", hidden_size') + LAST + "y = Gather (q, i)",
            "the node runs backwards, so its last state is that of the first step",
        ),
        (
            SQUEEZED.replace("r, b)", "r, b, n)") + LAST + "y = Gather (q, i)",
            "sequences may end before the last step",
        ),
    ],
)
def test_a_last_step_that_is_not_the_last_state_is_refused(body: str, reason: str) -> None:
    after, result = rewrite(_model(body, outputs="float[B,8] y", inputs=", int32[B] n"), SimplifyRecurrent())
    assert "Gather" in operators(after)
    assert reasons(result) == [reason]


@pytest.mark.parametrize("gather", ["y = Gather <axis = 0> (q, j)", "y = Gather <axis = 1> (q, i)"])
def test_another_step_or_axis_stays(gather: str) -> None:
    body = SQUEEZED + LAST + "j = Constant <value = int64 {-2}> () " + gather
    after, result = rewrite(_model(body, outputs="float[M,8] y"), SimplifyRecurrent())
    assert "Gather" in operators(after)
    assert not result.applied


def test_a_view_before_opset_13_is_refused() -> None:
    body = "to = Constant <value = int64[3] {0, -1, 8}> () s = LSTM <hidden_size = 8> (x, w, r, b) y = Reshape (s, to)"
    model = _model(body)
    model.opset_imports[""] = 12
    after, result = rewrite(model, SimplifyRecurrent())
    assert _ops(after) == ["LSTM", "Reshape"]
    assert reasons(result) == ["Squeeze of given axes needs opset 13, the model has 12"]
