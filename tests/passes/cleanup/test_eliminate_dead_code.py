from __future__ import annotations

from passes.cleanup.eliminate_dead_code import EliminateDeadCode
from tests.support.rewriting import add_weights, counts, graph_from, operators, random_array, rewrite


def test_a_dead_chain_and_its_weight_go() -> None:
    model = graph_from(
        """g (float[N,2] x, float[2] w) => (float[N,2] y) {
            a = Add (x, w)
            b = Neg (a)
            y = Relu (x)
        }"""
    )
    add_weights(model, w=random_array(2))
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    assert operators(after) == ["Relu"]
    assert not after.graph.initializers
    assert [event.rule for event in result.applied] == ["node", "node", "initializer"]


def test_unread_inputs_and_their_defaults_stay() -> None:
    model = graph_from("g (float[2] x, float[2] unused, float[2] d = {1.0, 2.0}) => (float[2] y) { y = Relu (x) }")
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    assert [value.name for value in after.graph.inputs] == ["x", "unused", "d"]
    assert list(after.graph.initializers) == ["d"]
    assert not result.applied


def test_what_a_branch_reads_is_alive_and_a_dead_if_goes_with_what_it_read() -> None:
    text = """g (bool c, float[2] x) => (float[2] y) {{
        a = Neg (x)
        r = If (c) <
            then_branch = t () => (float[2] p) {{ p = Abs (a) }},
            else_branch = e () => (float[2] q) {{ q = Exp (x) }}
        >
        y = Add ({}, x)
    }}"""
    after, _ = rewrite(graph_from(text.format("r")), EliminateDeadCode(), is_exact=True)
    assert counts(after) == {"Neg": 1, "If": 1, "Abs": 1, "Exp": 1, "Add": 1}
    after, _ = rewrite(graph_from(text.format("x")), EliminateDeadCode(), is_exact=True)
    assert counts(after) == {"Add": 1}


def test_functions_that_nobody_calls_go() -> None:
    model = graph_from(
        """g (float[2] x) => (float[2] y) { y = my.used (x) }
        <domain: "my", opset_import: ["" : 23, "my" : 1]> used (a) => (b) { b = my.inner (a) }
        <domain: "my", opset_import: ["" : 23]> inner (a) => (b) { b = Neg (a) }
        <domain: "my", opset_import: ["" : 23]> unused (a) => (b) { b = Abs (a) }""",
        domains=', "my" : 1',
    )
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    assert sorted(key[1] for key in after.functions) == ["inner", "used"]
    assert [event.node for event in result.applied] == ["my::unused"]


def test_a_limit_removes_that_many() -> None:
    model = graph_from("g (float[2] x) => (float[2] y) { a = Neg (x) b = Abs (a) c = Exp (b) y = Relu (x) }")
    after, result = rewrite(model, EliminateDeadCode(), limit=2)
    assert len(result.applied) == 2
    assert operators(after) == ["Neg", "Relu"]


def test_optional_outputs_that_nobody_reads_are_left_out() -> None:
    model = graph_from(
        """g (float[1,1,4] x, float[1,8,4] w, float[1,8,2] r) => (float[1,1,2] c, float[1,1,2] m) {
            d, mask = Dropout (x)
            p, indices = MaxPool <kernel_shape = [1]> (d)
            y, h, c = LSTM <hidden_size = 2> (p, w, r)
            m = Neg (h)
        }"""
    )
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    outputs = {node.op_type: [value.name for value in node.outputs] for node in after.graph}
    assert outputs == {"Dropout": ["d"], "MaxPool": ["p"], "LSTM": ["", "h", "c"], "Neg": ["m"]}
    assert [event.rule for event in result.applied].count("output") == 3
    assert rewrite(after, EliminateDeadCode())[1].applied == ()


def test_outputs_that_are_not_optional_stay() -> None:
    model = graph_from(
        """g (float[4] x) => (float[2] y) {
            y, z = Split <axis = 0, num_outputs = 2> (x)
        }"""
    )
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    assert not result.applied
    assert [value.name for value in next(iter(after.graph)).outputs] == ["y", "z"]


def test_initializers_of_a_branch_go_as_well() -> None:
    model = graph_from(
        """g (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = t () => (float[2] p) <float[2] k = {1.0, 2.0}> { p = Abs (x) },
                else_branch = e () => (float[2] q) { q = Exp (x) }
            >
        }"""
    )
    after, result = rewrite(model, EliminateDeadCode(), is_exact=True)
    assert [event.node for event in result.applied] == ["k"]
    assert all(not graph.initializers for graph in after.graphs())
