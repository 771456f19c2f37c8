"""Properties that hold for every pass on every graph, tried on random small graphs."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.capabilities import Capabilities
from passes.catalogue import PASSES, default_pipeline
from passes.observers import CheckStructure
from passes.parse import pass_from_options, pipeline_from_text
from passes.pipeline import Pipeline
from passes.sample_inputs import generated_inputs
from tests.support.rewriting import add_weights, graph_from, random_array, rewrite

# Each takes one or two tensors [N,4] and makes one of [N,4]; {o} is its name, also the base of inner names.
TEMPLATES = (
    "{o} = Identity ({a})",
    "{o} = Relu ({a})",
    "{o} = Neg ({a})",
    "{o} = Add ({a}, {b})",
    "{o} = Mul ({a}, {b})",
    "{o} = Sub ({a}, zero)",
    "{o} = Mul (one, {a})",
    "{o} = Add ({a}, bias)",
    "{o}m = MatMul ({a}, w) {o} = Add ({o}m, bias)",
    "{o}m = MatMul ({a}, w) {o}n = Add ({o}m, bias) {o} = Add ({o}n, {b})",
    "{o}t = Transpose <perm = [1, 0]> ({a}) {o} = Transpose <perm = [1, 0]> ({o}t)",
    "{o}s = Shape ({a}) {o}r = Reshape ({a}, minus) {o} = Reshape ({o}r, {o}s)",
    # ONNX Runtime loses the result of two Casts in a row that only a branch reads, even with its optimizations off
    "{o}d = Cast <to = 11> ({a}) {o}c = Cast <to = 11> ({o}d) {o}n = Neg ({o}c) {o} = Cast <to = 1> ({o}n)",
    "{o}u = Unsqueeze ({a}, axis) {o} = Squeeze ({o}u, axis)",
    "{o}s = Shape ({a}) {o}e = Expand (bias, {o}s) {o} = Mul ({a}, {o}e)",
    "{o} = Softmax <axis = -1> ({a})",
    "{o}c = Add (one, one) {o} = Div ({a}, {o}c)",
    "{o}h = Mul ({a}, half) {o}q = Mul ({a}, root) {o}e = Erf ({o}q) {o}g = Add ({o}e, one) {o} = Mul ({o}h, {o}g)",
    "{o}m = ReduceMean ({a}, last) {o}d = Sub ({a}, {o}m) {o}q = Mul ({o}d, {o}d) {o}v = ReduceMean ({o}q, last) "
    "{o}p = Add ({o}v, eps) {o}r = Sqrt ({o}p) {o}n = Div ({o}d, {o}r) {o}l = Mul ({o}n, bias) {o} = Add ({o}l, bias)",
    "{o}c = Concat <axis = 1> ({a}, {b}) {o} = Slice ({o}c, from, to, axis)",
    "{o}x = ReduceMax ({a}) {o}k = Greater ({o}x, zero) {o} = If ({o}k) <then_branch = t{o} () => (float[N,4] {o}y) "
    "{{ {o}i = Identity ({b}) {o}y = Neg ({o}i) }}, else_branch = e{o} () => (float[N,4] {o}z) {{ {o}z = Abs ({a}) }}>",
)

CONSTANTS = """
    zero = Constant <value = float {0.0}> () one = Constant <value = float {1.0}> ()
    half = Constant <value = float {0.5}> () root = Constant <value = float {0.70710677}> ()
    eps = Constant <value = float {0.001}> () minus = Constant <value = int64[1] {-1}> ()
    last = Constant <value = int64[1] {-1}> () axis = Constant <value = int64[1] {1}> ()
    from = Constant <value = int64[1] {2}> () to = Constant <value = int64[1] {6}> ()
"""


@st.composite
def graphs(draw: st.DrawFn) -> ir.Model:
    values, lines = ["x"], []
    for index in range(draw(st.integers(1, 7))):
        template = draw(st.sampled_from(TEMPLATES))
        first, second = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        lines.append(template.format(o=f"v{index}", a=first, b=second))
        values.append(f"v{index}")
    made = values[1:]
    outputs = sorted(set(draw(st.lists(st.sampled_from(made), min_size=1, max_size=2))) | {made[-1]})
    body = "\n".join(lines)
    text = f"""g (float[N,4] x, float[4,4] w, float[4] bias) => ({", ".join(f"float[N,4] {o}" for o in outputs)}) {{
        {CONSTANTS} {body} }}"""
    return add_weights(graph_from(text), w=random_array(4, 4) / 4, bias=random_array(4, seed=1))


BARE = Capabilities(name="bare", opset_limit=23, kernels=frozenset({"Add", "Mul"}))
NEUTRAL = sorted(name for name in PASSES if not name.startswith(("quantize", "convert", "cast")))
QUICK = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize("name", NEUTRAL)
@QUICK
@given(model=graphs())
def test_a_pass_keeps_the_outputs_and_a_second_run_changes_nothing(name: str, model: ir.Model) -> None:
    step = PASSES[name]()
    feeds = generated_inputs(model)
    if name == "expand-functions":
        after, _ = rewrite(model, step, capabilities=BARE, feeds=feeds)
    else:
        after, _ = rewrite(model, step, feeds=feeds)
        for _ in range(8):
            once, results = Pipeline((step,)).run(after)
            if not results[0].applied:
                break
            after = once
        assert not Pipeline((step,)).run(after)[1][0].applied


@settings(parent=QUICK, max_examples=60)
@given(model=graphs())
def test_the_default_pipeline_keeps_the_outputs_and_a_second_run_changes_nothing(model: ir.Model) -> None:
    after, _ = rewrite(model, *default_pipeline().steps)  # type: ignore[arg-type]
    again, results = default_pipeline().run(after, observers=[CheckStructure()])
    assert [event for result in results for event in result.applied] == []
    assert ir.to_onnx_text(again) == ir.to_onnx_text(after)


@settings(parent=QUICK, max_examples=25)
@given(model=graphs(), limit=st.integers(0, 12))
def test_stopping_after_any_number_of_rewrites_leaves_a_right_graph(model: ir.Model, limit: int) -> None:
    after, results = default_pipeline().run(model, limit=limit, observers=[CheckStructure()])
    assert sum(len(result.applied) for result in results) <= limit
    rewrite(after)
    rewrite(model, *default_pipeline().steps, limit=limit)  # type: ignore[arg-type]


@QUICK
@given(
    names=st.lists(st.sampled_from(NEUTRAL), max_size=4),
    bound=st.integers(0, 10**9),
    rounds=st.integers(1, 20),
    target=st.integers(18, 25),
)
def test_pipeline_text_round_trips(names: list[str], bound: int, rounds: int, target: int) -> None:
    parts = [str(pass_from_options(PASSES[name], {})) for name in names]
    parts += [f"fold-constants{{max_bytes={bound}}}", f"repeat{{rounds={rounds}}}(upgrade-opset{{target={target}}})"]
    pipeline = pipeline_from_text(",".join(parts))
    assert pipeline_from_text(str(pipeline)) == pipeline
