"""Each fusion's pattern, half in the graph around an If and half in its branch, at every place where it can be cut."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from passes.base import Context
from passes.capabilities import PORTABLE
from passes.catalogue import default_pipeline
from passes.comparison import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, difference
from passes.execution import run_model
from passes.parse import pipeline_from_text
from tests.support.rewriting import add_weights, graph_from, random_array, reasons

WEIGHTS = {
    "w": random_array(8, 8, seed=1),
    "b": random_array(8, seed=2),
    "s": np.abs(random_array(8, seed=3)) + np.float32(0.5),
    "k": random_array(8, 8, 1, seed=4),
    "scalar": np.array(3, np.float32),
    "half": np.array(0.5, np.float32),
    "one": np.array(1, np.float32),
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "six": np.array(6, np.float32),
    "zero": np.array(0, np.float32),
    "eps": np.array(1e-5, np.float32),
    "root": np.array(0.5**0.5, np.float32),
    "last": np.array([-1]),
    "zeroth": np.array([0]),
    "far": np.array([4]),
    "groups": np.array([1, 2, -1]),
    "ones": np.ones(2, np.float32),
    "zeros": np.zeros(2, np.float32),
    "each": random_array(4, 1, seed=5),
    "gates": random_array(1, 32, 8, seed=6),
    "row": np.array([1]),
    "flat": np.array([-1, 8]),
    "cube": np.array([1, 4, 8]),
    "heads": np.array([1, 4, 2, 4]),
}
_HEADS = "{0}m = MatMul (x, w); {0}r = Reshape ({0}m, heads); {0} = Transpose <perm = [0, 2, {1}]> ({0}r); "

# pass -> the nodes of its pattern, in order, from x [1, 4, 8] to the last one's output of the same shape
CHAINS = {
    "fuse-gelu": "a = Mul (x, root); e = Erf (a); p = Add (e, one); q = Mul (x, p); r = Mul (q, half)",
    "fuse-activation": "a = Add (x, three); c = Clip (a, zero, six); m = Mul (x, c); r = Div (m, six)",
    "fuse-softmax": "m = ReduceMax (x, last); d = Sub (x, m); e = Exp (d); t = ReduceSum (e, last); r = Div (e, t)",
    "fuse-layer-norm": "m = ReduceMean (x, last); d = Sub (x, m); q = Mul (d, d); v = ReduceMean (q, last);"
    " a = Add (v, eps); t = Sqrt (a); n = Div (d, t); g = Mul (n, s); r = Add (g, b)",
    "fuse-rms-norm": "q = Mul (x, x); v = ReduceMean (q, last); a = Add (v, eps); t = Sqrt (a); n = Div (x, t);"
    " r = Mul (n, s)",
    "fuse-channel-arithmetic": "m = MatMul (x, w); a = Add (m, b); t = Transpose <perm = [0, 2, 1]> (a);"
    " u = Mul (t, scalar); r = Transpose <perm = [0, 2, 1]> (u)",
    "fuse-conv-batch-norm": "t = Transpose <perm = [0, 2, 1]> (x); c = Conv (t, k);"
    " n = BatchNormalization (c, s, b, b, s); c2 = Conv (n, k); r = Transpose <perm = [0, 2, 1]> (c2)",
    "fuse-group-norm{groups=true}": "f = Reshape (x, groups); n = InstanceNormalization (f, ones, zeros);"
    " u = Reshape (n, cube); g = Mul (u, each); r = Add (g, each)",
    "simplify-recurrent": "h = LSTM <hidden_size = 8> (x, gates, gates); r = Reshape (h, cube)",
    "unflatten-matmul": "f = Reshape (x, flat); m = MatMul (f, w); a = Add (m, b); r = Reshape (a, cube)",
    "fuse-matmul-add": "f = Squeeze (x, zeroth); m = MatMul (f, w); a = Add (m, b); r = Unsqueeze (a, zeroth)",
    "fuse-sum": "m = MatMul (x, w); a = Add (m, b); r = Add (a, x)",
    "fuse-einsum": 'n = Neg (x); r = Einsum <equation = "bij,jk->bik"> (n, w)',
    "simplify-algebra": "n = Neg (x); p = Neg (n); m = Mul (p, two); r = Mul (m, three)",
    "merge-clips": "m = Relu (x); r = Clip (m, zero, six)",
    "merge-reshapes": "m = Reshape (x, flat); r = Reshape (m, cube)",
    "merge-slices": "m = Slice (x, zeroth, row, row); n = Slice (x, row, far, row); r = Concat <axis = 1> (m, n)",
    "fuse-attention": _HEADS.format("q", "1, 3")
    + _HEADS.format("h", "3, 1")
    + "z = MatMul (q, h); u = Mul (z, half); p = Softmax <axis = -1> (u); "
    + _HEADS.format("v", "1, 3")
    + "o = MatMul (p, v); t = Transpose <perm = [0, 2, 1, 3]> (o); r = Reshape (t, cube)",
}


def _cuts() -> Iterator[tuple[str, int]]:
    for name, chain in CHAINS.items():
        for cut in range(1, chain.count(";") + 1):
            yield name, cut


def _inputs() -> str:
    kinds = {"i": "int64", "f": "float"}
    shaped = ((name, kinds[array.dtype.kind], ",".join(map(str, array.shape))) for name, array in WEIGHTS.items())
    return "float[1,4,8] x" + "".join(f", {kind}[{shape}] {name}" for name, kind, shape in shaped)


@pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "default"])
@pytest.mark.parametrize(("name", "cut"), list(_cuts()))
def test_a_pattern_across_a_branch_keeps_its_outputs(name: str, cut: int, is_alone: bool) -> None:
    nodes = [node.strip() for node in CHAINS[name].split(";")]
    outer, inner = " ".join(nodes[:cut]), " ".join(nodes[cut:])
    branches = f"then_branch = yes () => (float[1,4,8] r) {{ {inner} }}, "
    branches += "else_branch = no () => (float[1,4,8] other) { other = Exp (x) }"
    text = f"g ({_inputs()}, bool chosen) => (float[1,4,8] y) {{ {outer} y = If (chosen) <{branches}> }}"
    model = add_weights(graph_from(text), **WEIGHTS)
    feeds = tuple({"x": random_array(1, 4, 8, seed=9), "chosen": np.array(chosen)} for chosen in (True, False))
    pipeline = pipeline_from_text(name) if is_alone else default_pipeline()
    after, _ = pipeline.run(model, context=Context(PORTABLE))
    for old, new in zip(run_model(model, feeds), run_model(after, feeds), strict=True):
        assert difference(old, new, relative=RELATIVE_TOLERANCE, absolute=ABSOLUTE_TOLERANCE) == ""
    again, _ = pipeline.run(after, context=Context(PORTABLE))
    assert [node.op_type for node in again.graph.all_nodes()] == [node.op_type for node in after.graph.all_nodes()]


@pytest.mark.parametrize(
    ("name", "inside"),
    [("fuse-gelu", 1), ("fuse-activation", 1), ("fuse-softmax", 1), ("fuse-rms-norm", 2), ("fuse-layer-norm", 3)],
)
def test_a_node_outside_is_not_moved_into_a_branch(name: str, inside: int) -> None:
    """In the body of a Loop it would be computed at each trip."""
    nodes = CHAINS[name].split(";")
    branches = f"then_branch = yes () => (float[1,4,8] r) {{ {' '.join(nodes[-inside:])} }}, "
    branches += "else_branch = no () => (float[1,4,8] other) { other = Exp (x) }"
    text = f"{{ {' '.join(nodes[:-inside])} y = If (chosen) <{branches}> }}"
    model = add_weights(graph_from(f"g ({_inputs()}, bool chosen) => (float[1,4,8] y) {text}"), **WEIGHTS)
    after, (result,) = pipeline_from_text(name).run(model, context=Context(PORTABLE))
    assert not result.applied
    assert [node.op_type for node in after.graph] == [node.op_type for node in model.graph]
    assert "is made in another graph" in reasons(result)[0]


@pytest.mark.parametrize("name", CHAINS)
def test_each_pattern_in_one_graph_is_rewritten(name: str) -> None:
    """Otherwise the cuts above would prove nothing."""
    text = f"g ({_inputs()}) => (float[1,4,8] r) {{ {CHAINS[name].replace(';', '')} }}"
    model = add_weights(graph_from(text), **WEIGHTS)
    _, results = pipeline_from_text(name).run(model, context=Context(PORTABLE))
    assert [result for result in results if result.applied]
