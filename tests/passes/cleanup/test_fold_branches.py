from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from passes.cleanup.fold_branches import FoldBranches
from tests.support.rewriting import counts, graph_from, operators, reasons, rewrite

TEXT = """g (float[2] x, bool runtime) => (float[2] y) {{
    yes = Constant <value = bool {{1}}> () no = Constant <value = bool {{0}}> ()
    a = Exp (x)
    r = If ({condition}) <
        then_branch = t () => (float[2] p) {{ b = Neg (x) p = Abs (b) }},
        else_branch = e () => (float[2] q) {{ {other} }}
    >
    y = Add (r, a)
}}"""


@pytest.mark.parametrize(("condition", "left"), [("yes", ["Exp", "Neg", "Abs", "Add"]), ("no", ["Exp", "Sin", "Add"])])
def test_the_branch_that_runs_takes_the_place(condition: str, left: list[str]) -> None:
    model = graph_from(TEXT.format(condition=condition, other="q = Sin (a)"))
    after, _ = rewrite(model, FoldBranches(), is_exact=True)
    assert [op for op in operators(after) if op != "Constant"] == left
    names = [value.name for node in after.graph for value in node.outputs]
    assert len(names) == len(set(names))
    onnx.checker.check_model(ir.to_proto(after), full_check=True)
    assert rewrite(after, FoldBranches())[1].applied == ()


def test_branches_in_the_branch_follow() -> None:
    inner = """q = If (yes) < then_branch = t2 () => (float[2] p2) { p2 = Cos (x) },
        else_branch = e2 () => (float[2] q2) { q2 = Tan (x) } >"""
    after, result = rewrite(graph_from(TEXT.format(condition="no", other=inner)), FoldBranches(), is_exact=True)
    assert "If" not in counts(after)
    assert [event.rule for event in result.applied] == ["else", "then"]


def test_a_branch_keeps_its_own_branches_and_their_names_stay_apart() -> None:
    inner = """q = If (runtime) < then_branch = t2 () => (float[2] p2) { b = Cos (x) p2 = Neg (b) },
        else_branch = e2 () => (float[2] q2) { b = Tan (x) q2 = Neg (b) } >"""
    after, _ = rewrite(graph_from(TEXT.format(condition="no", other=inner)), FoldBranches(), is_exact=True)
    assert operators(after).count("If") == 1
    onnx.checker.check_model(ir.to_proto(after), full_check=True)


def test_weights_of_the_branch_come_along() -> None:
    model = graph_from(
        """g (float[2] x) => (float[2] y) <float[2] k = {5.0, 6.0}, bool yes = {1}> {
            r = If (yes) <
                then_branch = t () => (float[2] p) <float[2] w = {1.0, 2.0}> { p = Mul (x, w) },
                else_branch = e () => (float[2] q) { q = Neg (x) }
            >
            y = Add (r, k)
        }"""
    )
    after, _ = rewrite(model, FoldBranches(), is_exact=True)
    assert operators(after) == ["Mul", "Add"]
    assert sorted(after.graph.initializers) == ["k", "w", "yes"]


def test_an_output_of_the_graph_keeps_its_name() -> None:
    text = TEXT.format(condition="yes", other="q = Sin (x)").replace("y = Add (r, a)", "y = Identity (r)")
    model = graph_from(text.replace("r = If", "y = If").replace("y = Identity (r)", ""))
    after, _ = rewrite(model, FoldBranches(), is_exact=True)
    assert operators(after)[-2:] == ["Neg", "Abs"]


def test_an_outer_value_as_an_output_of_the_graph_is_refused() -> None:
    text = (
        TEXT.format(condition="no", other="q = Identity (a)").replace("r = If", "y = If").replace("y = Add (r, a)", "")
    )
    model = graph_from(text)
    branch = next(node for node in model.graph if node.op_type == "If").attributes["else_branch"].as_graph()
    outer = next(node for node in model.graph if node.op_type == "Exp").outputs[0]
    identity = next(iter(branch))
    branch.outputs[0] = outer
    branch.remove(identity, safe=True)
    from passes.base import Context

    result = FoldBranches().run(model, Context())
    assert not result.applied
    assert "as the output 'y'" in reasons(result)[0]


def test_a_condition_that_varies_stays() -> None:
    _, result = rewrite(graph_from(TEXT.format(condition="runtime", other="q = Sin (x)")), FoldBranches())
    assert not result.applied


def test_a_spent_budget_leaves_the_graph() -> None:
    model = graph_from(TEXT.format(condition="yes", other="q = Sin (x)"))
    after, _ = rewrite(model, FoldBranches(), limit=0)
    assert "If" in counts(after)


def test_two_branches_that_use_one_name_get_two() -> None:
    text = TEXT.format(condition="yes", other="b = Sin (x) q = Neg (b)")
    second = """s = If (no) <
        then_branch = t3 () => (float[2] p3) { p3 = Abs (r) },
        else_branch = e3 () => (float[2] q3) { b = Cos (r) q3 = Neg (b) }
    >
    y = Add (s, a)"""
    after, _ = rewrite(graph_from(text.replace("y = Add (r, a)", second)), FoldBranches(), is_exact=True)
    names = [value.name for node in after.graph for value in node.outputs]
    assert len(names) == len(set(names))
    assert "If" not in counts(after)
