"""What the target's pipeline makes of the standard graph: the runtime's own operators, by table and setting."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from passes.base import Context
from passes.comparison import difference
from passes.execution import run_model
from targets.base import BuildOptions
from targets.onnxruntime.capabilities import NOT_WORTH_KEEPING, SAVES_NODES_ALONE, kernels_of
from targets.onnxruntime.target import OnnxRuntimeTarget
from targets.registry import get_target
from tests.support.rewriting import add_weights, graph_from, operators, random_array

TARGET = OnnxRuntimeTarget()
BLOCK = """g (float[B,S,8] x, float[8,24] w, float[24] b, float[8,8] o, float[8] c, float[8] g, float[8,8] u) =>
    (float[B,S,8] y) {
    p = MatMul (x, w) a = Add (p, b) q, k, v = Split <axis = -1, num_outputs = 3> (a)
    t = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) d = MatMul (t, o) s = Sum (d, c, x)
    n = LayerNormalization (s, g, c) f = MatMul (n, u) h = Add (f, c) y = Gelu (h) }"""


def block() -> ir.Model:
    shapes = {"w": (8, 24), "b": (24,), "o": (8, 8), "c": (8,), "g": (8,), "u": (8, 8)}
    return add_weights(
        graph_from(BLOCK), **{name: random_array(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    )


def legal(model: ir.Model, **settings: str) -> ir.Model:
    options = BuildOptions(settings=settings)
    context = Context(TARGET.capabilities(options))
    return TARGET.pipeline(options).run(model, context=context)[0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["Attention", "MatMul", "Sum", "LayerNormalization", "MatMul", "BiasGelu"]),
        ({"operators": "fewest"}, ["Attention", "MatMul", "SkipLayerNormalization", "MatMul", "BiasGelu"]),
    ],
)
def test_a_layer_of_a_transformer(settings: dict[str, str], expected: list[str]) -> None:
    assert operators(legal(block(), **settings)) == expected


@pytest.mark.parametrize("name", ["openvino", "tensorrt", "xla"])
def test_other_targets_take_a_graph_that_was_made_for_this_one(name: str) -> None:
    model = legal(block(), operators="fewest")
    other, options = get_target(name), BuildOptions()
    context = Context(other.capabilities(options))
    after, _ = other.pipeline(options).run(model, context=context)
    assert all(context.capabilities.has_kernel(node.op_type, domain=node.domain) for node in after.graph)
    feed = {"x": random_array(3, 5, 8, seed=9)}
    ((expected,), (given,)) = run_model(model, (feed,)), run_model(after, (feed,))
    assert difference(expected, given, relative=1e-4, absolute=1e-5) == ""


def test_a_provider_without_known_kernels_gets_standard_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.onnxruntime.capabilities.kernels_of", lambda provider: None)
    assert {node.domain for node in legal(block(), provider="cuda").graph} == {""}


def test_the_tables_name_kernels_that_there_are() -> None:
    kernels = kernels_of("CPUExecutionProvider")
    assert kernels is not None
    assert {*NOT_WORTH_KEEPING, *SAVES_NODES_ALONE} <= kernels


@pytest.mark.parametrize(
    ("settings", "told"),
    [({}, {"fuse-skip-norm": "SkipLayerNormalization does not pay: 3 to 7 times"}), ({"operators": "fewest"}, {})],
)
def test_what_is_withheld_is_told_with_what_was_measured(settings: dict[str, str], told: dict[str, str]) -> None:
    options = BuildOptions(settings=settings)
    _, results = TARGET.pipeline(options).run(block(), context=Context(TARGET.capabilities(options)))
    reasons = {result.name: event.reason for result in results for event in result.refused}
    assert reasons.keys() == told.keys()
    assert all(part in reasons[name] for name, part in told.items())


def test_multi_head_attention_is_withheld_with_what_was_measured() -> None:
    text = "g (float[B,S,8] q, float[B,T,8] k, float[B,T,8] v) => (float[B,S,8] y) {"
    built = graph_from(text + " y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v) }")
    _, results = TARGET.pipeline(BuildOptions()).run(built, context=Context(TARGET.capabilities(BuildOptions())))
    (reason,) = [event.reason for result in results for event in result.refused]
    assert reason.startswith("com.microsoft MultiHeadAttention does not pay: 5 to 8% slower")


def test_types_come_from_the_runtime() -> None:
    capabilities = TARGET.capabilities(BuildOptions())
    ask = {"domain": "com.microsoft"}
    assert capabilities.has_kernel("BiasGelu", dtype="FLOAT", **ask)
    assert not capabilities.has_kernel("BiasGelu", dtype="DOUBLE", **ask)
    fewest = TARGET.capabilities(BuildOptions(settings={"operators": "fewest"}))
    assert fewest.has_kernel("SkipLayerNormalization", dtype="DOUBLE", **ask)
    assert not capabilities.has_kernel("MultiHeadAttention", **ask)


def test_the_artifact_runs_and_says_what_runs(tmp_path: Path) -> None:
    options = BuildOptions()
    artifact = TARGET.build(legal(block()), tmp_path, options)
    executed = artifact.manifest.details["executed"]
    assert executed["operators"]["com.microsoft::Attention"] == 1
    assert executed["by_node"] == {"t/Attention": "float"}  # the other products of this graph have no name
    feed = {"x": random_array(3, 5, 8, seed=9)}

    with TARGET.open(artifact) as runner:
        (expected,) = run_model(block(), (feed,))
        assert difference(expected, runner(feed), relative=1e-4, absolute=1e-5) == ""


def test_an_artifact_of_int8_products_keeps_its_int8(tmp_path: Path) -> None:
    from tests.support.quantized_model import quantized_model

    options = BuildOptions(precision="int8")
    artifact = TARGET.build(legal(quantized_model()), tmp_path, options)
    (tmp_path / "plain").mkdir()
    plain = TARGET.build(quantized_model(), tmp_path / "plain", options)
    for key in ("int8_planned", "int8_executed", "float_fallbacks"):
        assert artifact.manifest.details["executed"][key] == plain.manifest.details["executed"][key]
