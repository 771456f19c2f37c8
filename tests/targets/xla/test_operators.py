"""Every operator's lowering against the reference evaluator or ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from targets.xla.backend import load_jax, tracing
from targets.xla.lowering.program import Program
from targets.xla.lowering.registry import find_lowering, lowers, registered
from targets.xla.weights import weights_of
from tests.support.small_models import unoptimized
from tests.targets.xla.operator_cases import CASES, CONTROL_FLOW, Case

FAST_COMPILATION = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""For programs that run once."""


def lowered(model: ir.Model, feeds: dict[str, np.ndarray], **options) -> list[np.ndarray]:
    """Return the outputs of the program that the model is lowered to, compiled and run here."""
    jax = load_jax()
    program = Program(model, **options)
    weights = {name: np.asarray(tensor.numpy()) for name, tensor in weights_of(model).items()}
    with tracing("highest"):
        values = [feeds[value.name] for value in model.graph.inputs]
        program_of_case = jax.jit(lambda weights, inputs: program(weights, inputs)).lower(weights, values)
        outputs = program_of_case.compile(compiler_options=FAST_COMPILATION)(weights, values)
        return [np.asarray(output) for output in outputs]


def expected(case: Case) -> list[np.ndarray]:
    if case.reference == "ort":
        return list(unoptimized(ir.from_proto(case.model()), case.feeds()).values())
    return ReferenceEvaluator(case.model()).run(None, case.feeds())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_reference(case: Case):
    actual = lowered(ir.from_proto(case.model()), case.feeds())
    reference = expected(case)
    assert len(actual) == len(reference) > 0
    for got, want in zip(actual, reference, strict=True):
        want = np.asarray(want)
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=case.tolerance, atol=case.tolerance)


def test_every_operator_has_a_case():
    covered = {(case.domain, case.op_type, _since(case)) for case in CASES}
    wanted = {(domain, op_type, since) for (domain, op_type), versions in registered().items() for since in versions}
    assert {entry for entry in wanted - covered if entry[1] not in CONTROL_FLOW} == set()


def _since(case: Case) -> int:
    lowering = find_lowering(case.op_type, case.domain, case.opset if not case.domain else 1)
    assert lowering is not None
    return lowering.since


def test_refuses_a_second_lowering_of_one_version():
    with pytest.raises(ValueError, match="Clip since 11 is lowered twice"):
        lowers("Clip", since=11)(lambda call, x: x)


def test_takes_the_newest_version_that_is_not_too_new():
    assert find_lowering("Clip", "", 10).since == 6
    assert find_lowering("Clip", "ai.onnx", 11).since == 11
    assert find_lowering("Gelu", "", 19) is None
    assert find_lowering("NoSuchOperator", "", 23) is None


def test_a_wrong_lowering_would_be_seen():
    case = next(case for case in CASES if case.op_type == "Sub")
    swapped = ir.from_proto(case.model())
    node = next(iter(swapped.graph))
    first, second = node.inputs
    node.replace_input_with(0, second)
    node.replace_input_with(1, first)
    (actual,) = lowered(swapped, case.feeds())
    assert not np.allclose(actual, expected(case)[0])
