"""What TensorRT has no kernel for is expanded before the build, and the result is built and means the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from passes.base import Context
from targets.base import BuildOptions, DimRange
from targets.tensorrt.target import TensorRtTarget

HEAD = '<ir_version: 10, opset_import: ["" : 23]>'
OPTIONS = BuildOptions(settings={"sm": "89"}, dims={"N": DimRange(1, 2, 8), "S": DimRange(1, 16, 32)})
ATTENTIONS = {
    "masked": """g (float[N,2,S,8] q, float[N,2,S,8] k, float[N,2,S,8] v, bool[N,1,1,S] m) => (float[N,2,S,8] y) {{
        y = Attention(q, k, v, m) }}""",
    "one tensor thrice": "g (float[N,2,S,8] q) => (float[N,2,S,8] y) {{ y = Attention(q, q, q) }}",
    "causal": "g (float[N,2,S,8] q) => (float[N,2,S,8] y) {{ y = Attention<is_causal = 1>(q, q, q) }}",
    "flat": "g (float[N,S,16] q) => (float[N,S,16] y) {{ y = Attention<q_num_heads = 2, kv_num_heads = 2>(q, q, q) }}",
}


def model_of(case: str) -> ir.Model:
    return ir.from_onnx_text(HEAD + ATTENTIONS[case].format())


def legalised(case: str) -> ir.Model:
    target = TensorRtTarget()
    context = Context(capabilities=target.capabilities(OPTIONS))
    return target.pipeline(OPTIONS).run(model_of(case), context=context)[0]


@pytest.mark.parametrize("case", ATTENTIONS)
def test_legalisation_removes_every_blocker(case: str) -> None:
    target = TensorRtTarget()
    assert target.blockers(model_of(case), OPTIONS)
    assert target.blockers(legalised(case), OPTIONS) == ()


@pytest.mark.parametrize("case", [case for case in ATTENTIONS if case != "masked"])
def test_the_legalised_graph_computes_the_same(case: str) -> None:
    from onnx import reference

    shape = [{"N": 2, "S": 5}.get(dim, dim) for dim in (str(d) for d in model_of(case).graph.inputs[0].shape)]
    feeds = {"q": np.random.default_rng(0).standard_normal([int(size) for size in shape]).astype(np.float32)}
    (expected,) = reference.ReferenceEvaluator(ir.to_proto(model_of(case))).run(None, feeds)
    (found,) = reference.ReferenceEvaluator(ir.to_proto(legalised(case))).run(None, feeds)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("case", ATTENTIONS)
def test_the_legalised_graph_builds(case: str, tmp_path: Path) -> None:
    artifact = TensorRtTarget().build(legalised(case), tmp_path, OPTIONS)
    assert artifact.manifest.details["engines"]["89"]["bytes"] > 10_000
