from __future__ import annotations

import dataclasses

from exporter.evaluation.localize import chain_of, localize
from exporter.results import Verdict
from tests.support.reports import build_report, output, stage


def test_the_first_failing_stage_is_named_with_the_drop():
    chain = (stage("trace"), stage("optimize", sqnr_db=38.0), stage("openvino fp32", sqnr_db=37.9))
    blame = localize(chain)
    assert (blame.stage, blame.output, blame.previous_stage) == ("optimize", "last_hidden_state", "trace")
    assert round(blame.drop_db, 1) == 86.3
    assert "the error enters at 'optimize'" in str(blame)
    assert "86.3 dB below 'trace'" in str(blame)


def test_nothing_is_blamed_when_nothing_failed_and_stages_not_run_do_not_clear():
    not_run = stage("quantize", "int8", verdict=Verdict.NOT_RUN, outputs=())
    assert localize((stage("trace"), not_run)) is None
    blame = localize((stage("trace"), not_run, stage("openvino int8", "int8", 2.0, 14.0)))
    assert (blame.stage, blame.previous_stage) == ("openvino int8", "trace")
    assert localize(()) is None


def test_the_output_with_a_problem_is_blamed_before_the_noisiest():
    outputs = (output("a", 10.0), output("b", 120.0, problems=("missing",)))
    blame = localize((stage("trace", sqnr_db=10.0, outputs=outputs),))
    assert blame.output == "b"
    assert blame.drop_db is None
    crashed = localize((stage("trace", sqnr_db=1.0, outputs=(), reason="it crashed"),))
    assert str(crashed) == "the error enters at 'trace': it crashed"


def test_an_artifacts_chain_holds_the_shared_graphs_and_its_own():
    report = build_report()
    openvino = next(a for a in report.artifacts if (a.target, a.precision) == ("openvino", "int8"))
    names = [each.stage for each in chain_of(openvino, report.stages)]
    assert names == ["trace", "optimize", "quantize for openvino int8", "openvino int8"]
    other = next(a for a in report.artifacts if a.target == "onnxruntime")
    assert [each.stage for each in chain_of(other, report.stages)] == ["trace", "optimize", "onnxruntime fp32"]
    unbuilt = dataclasses.replace(openvino, accuracy=None)
    assert [each.stage for each in chain_of(unbuilt, report.stages)][-1] == "quantize for openvino int8"


def test_a_stricter_gate_alone_is_not_called_an_error_that_entered():
    blame = localize((stage("optimize", sqnr_db=122.0), stage("xla fp32", sqnr_db=121.5, threshold=200.0)))
    assert str(blame).startswith(
        "'xla fp32' misses its gate with the error that 'optimize' passed with: sqnr_db is 121.5"
    )
