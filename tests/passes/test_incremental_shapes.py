"""What the sweeps of a pipeline keep of earlier ones is what a sweep from nothing finds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Pass, PassResult
from passes.catalogue import default_pipeline
from passes.dimensions import Dim
from passes.matching import dims_of
from passes.observers import Observer
from passes.shapes import ShapeFacts, infer_shapes
from tests.support.random_graphs import random_model
from tests.support.rewriting import add_weights, graph_from, random_array


@dataclass
class _Spelled:
    """Facts as text, with each unnamed dimension numbered by where it comes first."""

    numbers: dict[str, int] = field(default_factory=dict)

    def dim(self, dim: Dim | None) -> str:
        if dim is None:
            return "unknown"
        symbols = [self.symbol(symbol) for symbol in dim.symbols]
        return "*".join([str(dim.factor), *sorted(symbols)])

    def symbol(self, symbol: str) -> str:
        if not symbol.startswith("?"):
            return symbol
        bound = symbol.partition("<=")[2]
        return f"?{self.numbers.setdefault(symbol, len(self.numbers))}{'<=' if bound else ''}"

    def graph(self, model: ir.Model, facts: ShapeFacts) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for graph in model.graphs():
            for node in graph:
                for value in (*node.inputs, *node.outputs):
                    shape, content = facts.shape(value), facts.content(value)
                    dims = None if shape is None else [self.dim(dim) for dim in shape]
                    held = None if content is None else [self.dim(dim) for dim in content.elements]
                    rows.append((node.op_type, None if value is None else value.name, dims, held))
        return rows


def _fresh(model: ir.Model) -> ShapeFacts:
    facts = ShapeFacts()
    for graph in model.graphs():
        for node in graph:
            facts._derive(node)
    return facts


def _assert_current(model: ir.Model) -> None:
    kept = _Spelled().graph(model, infer_shapes(model))
    assert kept == _Spelled().graph(model, _fresh(model))


class _Compare(Observer):
    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        _assert_current(model)


@pytest.mark.parametrize("seed", range(40))
def test_after_each_pass_the_facts_are_those_of_a_sweep_from_nothing(seed: int) -> None:
    default_pipeline().run(ir.from_proto(random_model(random.Random(seed))), observers=[_Compare()])


TEXT = """g (float[N,4] x, int64[K] i, float[4,4] w, int64[2] to) => (float[A,B] y, int64[C] s, int64[2] d) {
    a = MatMul (x, w) r = Reshape (a, to) y = Relu (r) s = Shape (y) b = Mul (to, to) c = Add (b, b) d = Neg (c) }"""


def _model() -> ir.Model:
    return add_weights(graph_from(TEXT), w=random_array(4, 4), to=np.array([-1, 2], dtype=np.int64))


def _node(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def _change_input(model: ir.Model) -> None:
    model.graph.inputs[0].shape = ir.Shape([7, 4])


def _change_constant(model: ir.Model) -> None:
    model.graph.initializers["to"].const_value = ir.tensor(np.array([4, -1], dtype=np.int64), name="to")


def _change_attribute(model: ir.Model) -> None:
    _node(model, "Shape").attributes["start"] = ir.AttrInt64("start", 1)


def _change_reader(model: ir.Model) -> None:
    _node(model, "Shape").replace_input_with(0, model.graph.inputs[1])


def _change_operator(model: ir.Model) -> None:
    _node(model, "Relu").op_type = "Mystery"


def _change_statement(model: ir.Model) -> None:
    _node(model, "MatMul").outputs[0].shape = ir.Shape([3, 4])


CHANGES = [_change_input, _change_constant, _change_attribute, _change_reader, _change_operator, _change_statement]


@pytest.mark.parametrize("change", CHANGES)
def test_each_kind_of_edit_is_noticed_by_the_next_sweep(change: object) -> None:
    model = _model()
    before = _Spelled().graph(model, infer_shapes(model))
    assert callable(change)
    for node in model.graph:  # what was inferred is stated nowhere, so that a changed fact is not hidden behind it
        for value in node.outputs:
            value.shape = None
    infer_shapes(model)
    change(model)
    _assert_current(model)
    assert change is _change_operator or _Spelled().graph(model, infer_shapes(model)) != before


def test_a_sweep_over_an_unchanged_graph_derives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model()
    infer_shapes(model)
    derived: list[ir.Node] = []
    monkeypatch.setattr(ShapeFacts, "_derive", lambda facts, node: derived.append(node) or [])
    infer_shapes(model)
    assert derived == []
    _change_reader(model)
    infer_shapes(model)
    assert derived == [_node(model, "Shape")]


def test_two_unknown_dimensions_are_not_one_because_a_name_moved_on() -> None:
    model = graph_from(
        """g (float[8] x, bool[8] c, bool[8] d) => (float[P] y, float[Q] z) {
            u = Compress <axis = 0> (x, c) y = Relu (u) v = Compress <axis = 0> (x, d) z = Neg (v) }"""
    )
    facts = infer_shapes(model)
    first, _, second, _ = model.graph
    first.outputs[0].name, second.outputs[0].name = "t", "u"
    second.replace_input_with(1, model.graph.inputs[1])
    second.replace_input_with(1, model.graph.inputs[2])
    facts = infer_shapes(model)
    assert facts.shape(first.outputs[0]) != facts.shape(second.outputs[0])


def test_types_and_ranks_of_subgraphs_come_from_onnx_too() -> None:
    model = graph_from(
        """g (bool c, float[B,4] x) => (float[B,4] y) {
            y = If (c) <then_branch = t () => (float[B,4] t_y) { a = IsNaN (x) t_y = Cast <to = 1> (a) },
                        else_branch = e () => (float[B,4] e_y) { b = Mod (x, x) e_y = Neg (b) }> }"""
    )
    infer_shapes(model)
    found = {value.name: value for graph in model.graphs() for node in graph for value in node.outputs}
    assert found["a"].dtype == ir.DataType.BOOL
    assert dims_of(found["b"]) == ("B", 4)
