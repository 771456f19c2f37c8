from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from passes.cleanup.fold_loops import FoldLoops
from tests.support.golden import assert_refused, assert_rewritten, transformed
from tests.support.rewriting import counts, graph_from, rewrite

TEXT = """g (float[2] x, bool runtime, int64 n) => (float[2] y, float[K,2] all) {{
    one = Constant <value = int64 {{1}}> ()
    none = Constant <value = int64 {{0}}> () many = Constant <value = int64 {{7}}> ()
    yes = Constant <value = bool {{1}}> () no = Constant <value = bool {{0}}> ()
    r, all = Loop ({count}, {condition}, x) <body = b
        (int64 i, bool c, float[2] s) => (bool go, float[2] t, float[2] row) {{
        {go}
        f = Cast <to = 1> (i)
        row = Add (s, f)
        t = Exp (row)
    }}>
    y = Neg (r)
}}"""
GOES_ON, ENDS = "go = Identity (c)", "go = Constant <value = bool {0}> ()"


def loop(count: str, condition: str, go: str = GOES_ON, *, gathers: bool = True) -> ir.Model:
    text = TEXT.format(count=count, condition=condition, go=go)
    return graph_from(text if gathers else text.replace(", float[K,2] all)", ")"))


@pytest.mark.parametrize(
    ("count", "condition", "go"),
    [("one", "", GOES_ON), ("one", "yes", GOES_ON), ("one", "yes", ENDS), ("", "yes", ENDS), ("many", "yes", ENDS)],
)
def test_a_body_that_runs_once_takes_the_place(count: str, condition: str, go: str) -> None:
    after, result = rewrite(loop(count, condition, go), FoldLoops(), is_exact=True)
    left = {op: number for op, number in counts(after).items() if op not in ("Constant", "Identity")}
    assert left == {"Cast": 1, "Add": 1, "Exp": 1, "Neg": 1, "Unsqueeze": 1}
    assert [event.rule for event in result.applied] == ["once"]
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


@pytest.mark.parametrize(("count", "condition"), [("none", ""), ("none", "runtime"), ("n", "no"), ("", "no")])
def test_a_loop_that_never_runs_goes(count: str, condition: str) -> None:
    model = loop(count, condition, gathers=False)
    after, result = rewrite(model, FoldLoops(), is_exact=True)
    assert [op for op in counts(after) if op != "Constant"] == ["Neg"]
    assert [event.rule for event in result.applied] == ["never"]


@pytest.mark.parametrize(
    ("count", "condition", "go"),
    [
        ("n", "", GOES_ON),  # how often is known at run time
        ("many", "yes", GOES_ON),
        ("one", "runtime", GOES_ON),  # once or never
        ("many", "", ENDS),  # without a condition, what the body says of it is not asked
        ("n", "yes", ENDS),  # may be 0
    ],
)
def test_other_loops_stay(count: str, condition: str, go: str) -> None:
    feeds = ({"x": np.ones(2, np.float32), "runtime": np.array(True), "n": np.array(2)},)
    after, result = rewrite(loop(count, condition, go), FoldLoops(), feeds=feeds)
    assert counts(after)["Loop"] == 1
    assert result.applied == () == result.refused


def test_the_rows_of_no_trip_are_not_made_up() -> None:
    assert_refused(loop("none", ""), "fold-loops", "'all', gathered from no trip, is read")


def test_an_input_of_the_graph_does_not_become_an_output() -> None:
    text = """g (float[2] x) => (float[2] y) {{
        n = Constant <value = int64 {{{trips}}}> ()
        y = Loop (n, , x) <body = b (int64 i, bool c, float[2] s) => (bool c, float[2] s) {{ }}>
    }}"""
    for trips, reason in ((0, "it joins 'x' to the output 'y'"), (1, "hands 's' on as the output 'y' of the graph")):
        model = graph_from(
            text.format(trips=trips).replace(
                "c, float[2] s) { }", "c2, float[2] t) { c2 = Identity (c) t = Identity (s) }"
            )
        )
        if trips:
            body = next(node for node in model.graph if node.op_type == "Loop").attributes["body"].as_graph()
            last = list(body)[-1]
            body.outputs[1] = body.inputs[2]
            body.remove(last, safe=True)
        assert_refused(model, "fold-loops", reason)


def test_the_trip_number_has_the_rank_that_the_body_states() -> None:
    text = TEXT.format(count="one", condition="yes", go=GOES_ON).replace("(int64 i, bool c,", "(int64[1] i, bool c,")
    after, _ = rewrite(graph_from(text), FoldLoops(), is_exact=True)
    shapes = {name: list(value.shape.numpy()) for name, value in after.graph.initializers.items()}
    assert shapes["i_first"] == [1]


def test_loops_in_the_body_follow_and_names_stay_apart() -> None:
    assert_rewritten(
        """g (float[2] x) => (float[2] y) {
            one = Constant <value = int64 {1}> ()
            b = Exp (x)
            r = Loop (one, , b) <body = f (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
                d = Identity (c)
                inner = Loop (one, , s) <body = h (int64 i2, bool c2, float[2] s2) => (bool d2, float[2] t2) {
                    d2 = Identity (c2)
                    t2 = Neg (s2)
                }>
                t = Abs (inner)
            }>
            y = Add (r, b)
        }""",
        "fold-loops,eliminate-dead-code",
        """
        b = Exp (x)
        t2_1 = Neg (b)
        t = Abs (t2_1)
        y = Add (t, b)
        """,
    )


def test_before_opset_13_only_what_gathers_nothing_is_folded() -> None:
    gathering = TEXT.format(count="one", condition="", go=GOES_ON)
    assert_refused(graph_from(gathering, opset=12), "fold-loops", "needs opset 13")
    after, _ = transformed(graph_from(gathering.replace(", float[K,2] all)", ")"), opset=12), "fold-loops")
    assert "Loop" not in counts(after)


def test_a_spent_budget_leaves_the_loop() -> None:
    after, _ = rewrite(loop("one", ""), FoldLoops(), limit=0)
    assert counts(after)["Loop"] == 1
