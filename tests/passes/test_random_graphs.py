"""Random graphs through whole pipelines and through single passes; the many are run by tests/benchmarks."""

from __future__ import annotations

import random

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes.pipeline import Pipeline
from tests.support.random_graphs import feeds_of, random_model
from tests.support.rewrite_proof import problems, reduced, single_passes, whole_pipelines

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def _problems(source: random.Random, pipelines: object) -> list[str]:
    model = random_model(source, size=source.randint(1, 6))
    onnx.checker.check_model(model)
    found = problems(model, feeds_of(model), feeds_of(model, jitter=1e-6), pipelines)  # type: ignore[arg-type]
    return [str(problem) for problem in found]


@QUICK
@given(source=st.randoms(use_true_random=False))
def test_whole_pipelines_keep_outputs_and_reach_a_fixed_point(source: random.Random) -> None:
    assert _problems(source, whole_pipelines()) == []


@settings(parent=QUICK, max_examples=60)
@given(source=st.randoms(use_true_random=False), name=st.sampled_from(sorted(single_passes())))
def test_each_pass_alone_keeps_outputs(source: random.Random, name: str) -> None:
    assert _problems(source, {name: single_passes()[name]}) == []


def _faulty() -> dict[str, object]:
    from dataclasses import dataclass
    from typing import ClassVar

    import onnx_ir as ir

    from passes.base import Context, Pass, PassResult
    from passes.capabilities import PORTABLE

    @dataclass(frozen=True)
    class Fault(Pass):
        """Takes every Tanh for an Erf."""

        name: ClassVar[str] = "fault"

        def run(self, model: ir.Model, context: Context) -> PassResult:
            recorder = context.recorder(self.name)
            for node in model.graph:
                if node.op_type == "Tanh" and recorder.may_apply(node):
                    node.op_type = "Erf"
            return recorder.result()

    return {"fault": (Pipeline((Fault(),)), PORTABLE)}


def test_a_planted_fault_is_found_and_cut_down() -> None:
    def faults(model: onnx.ModelProto) -> list[str]:
        found = problems(model, feeds_of(model), feeds_of(model, jitter=1e-6), _faulty())  # type: ignore[arg-type]
        return [problem.kind for problem in found]

    for seed in range(60):
        model = random_model(random.Random(seed))
        if faults(model):
            small = reduced(model, lambda candidate: faults(candidate) == ["mismatch"])
            assert len([node for node in small.graph.node if node.op_type != "Constant"]) <= 3
            return
    pytest.fail("no graph has a Tanh")
