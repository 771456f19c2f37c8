"""Text in, pass over it, text out: what the tests of passes share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from passes.base import Budget, Context, Pass, PassResult
from passes.capabilities import PORTABLE, Capabilities
from passes.comparison import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, difference
from passes.execution import run_model
from passes.pipeline import Pipeline
from passes.sample_inputs import generated_inputs


def graph_from(body: str, *, opset: int = 23, domains: str = "") -> ir.Model:
    """Return the model of a graph in ONNX text, without the header."""
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : {opset}{domains}]>\n{body}')


def rewrite(
    model: ir.Model,
    *steps: Pass,
    limit: int | None = None,
    capabilities: Capabilities = PORTABLE,
    is_exact: bool = False,
    feeds: tuple[Mapping[str, np.ndarray], ...] | None = None,
) -> tuple[ir.Model, PassResult]:
    """Return the rewritten copy and the last pass's result, after checking that outputs and the input model are kept.

    The rewritten graph gives the outputs of the original in ONNX Runtime without its optimizations.
    """
    text = ir.to_onnx_text(model)
    context = Context(capabilities, Budget(limit))
    after, results = Pipeline(tuple(steps)).run(model, context=context)
    assert ir.to_onnx_text(model) == text, "a pipeline edits a copy"
    assert [v.name for v in after.graph.inputs] == [v.name for v in model.graph.inputs]
    assert [v.name for v in after.graph.outputs] == [v.name for v in model.graph.outputs]
    feeds = generated_inputs(model) if feeds is None else feeds
    relative, absolute = (0.0, 0.0) if is_exact else (RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
    for old, new in zip(run_model(model, feeds), run_model(after, feeds), strict=True):
        assert difference(old, new, relative=relative, absolute=absolute) == ""
    return after, results[-1] if results else PassResult("")


def operators(model: ir.Model) -> list[str]:
    """Return the operator of each node of the main graph, in order."""
    return [node.op_type for node in model.graph]


def counts(model: ir.Model) -> dict[str, int]:
    """Return how many nodes there are of each operator, subgraphs included."""
    return dict(Counter(node.op_type for node in model.graph.all_nodes()))


def reasons(result: PassResult) -> list[str]:
    """Return the reasons of all refusals."""
    return [event.reason for event in result.refused]


def add_weights(model: ir.Model, **arrays: np.ndarray) -> ir.Model:
    """Turn graph inputs into initializers with this content; returns the same model."""
    for name, array in arrays.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.Tensor(array, name=name)
        value.type, value.shape = ir.TensorType(value.const_value.dtype), ir.Shape(array.shape)
        model.graph.register_initializer(value)
    return model


def random_array(*shape: int, seed: int = 0) -> np.ndarray:
    """Return standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
