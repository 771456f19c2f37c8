"""The gates of a search: whose they are, and what is kept back of them."""

from __future__ import annotations

import pytest

from exporter.evaluation.gates import parse_gates
from exporter.evaluation.tolerance import GATES, GateSpec
from exporter.search.margins import auto_gates, budget, objective_of, with_margin
from passes.errors import ExitCode

PRECISIONS = ("fp32", "int8", "auto")


def gates(*texts: str) -> dict[str, float]:
    user = parse_gates(texts, targets=["openvino"], precisions=PRECISIONS)
    return {spec.name: spec.threshold for spec in budget(user, target="openvino")}


def test_a_gate_of_its_own_beats_a_general_one_and_int8_s_does_not_count() -> None:
    found = gates("cosine=0.99", "auto:cosine=0.999", "int8:sqnr_db=30", "openvino:max_abs=2")
    assert found["cosine"] == 0.999
    assert found["sqnr_db"] == 14.0
    assert found["max_abs"] == 2.0
    assert "speedup" not in gates("speedup=1.2")


def test_scopes_are_gone() -> None:
    user = parse_gates(["auto:cosine=0.999", "int8:cosine=0.9"], targets=[], precisions=PRECISIONS)
    assert [(gate.name, gate.threshold, gate.precision) for gate in auto_gates(user)] == [("cosine", 0.999, "")]


@pytest.mark.parametrize("name", [name for name, kind in GATES.items() if kind.exit_code is ExitCode.ACCURACY])
def test_the_margin_is_on_the_strict_side(name: str) -> None:
    spec = GateSpec(name, 0.9)
    strict = with_margin([spec])[0]
    assert strict.threshold != spec.threshold
    assert spec.is_met_by(strict.threshold)
    assert not strict.is_met_by(spec.threshold)


def test_accuracy_is_told_in_the_user_s_gate() -> None:
    user = parse_gates(["top1_agreement=0.99"], targets=[], precisions=PRECISIONS)
    assert objective_of(budget(user, target="openvino")) == "top1_agreement"
    assert objective_of(budget((), target="openvino")) == "sqnr_db"
