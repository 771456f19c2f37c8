from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

from exporter.report.junit import junit_text
from exporter.results import Gate, StageAccuracy, Verdict
from passes.errors import ExitCode
from tests.support.reports import build_report, output, stage


def suites(report):
    return ElementTree.fromstring(junit_text(report).encode())


def case(report, suite, name):
    (found,) = suites(report).findall(f"testsuite[@name='{suite}']/testcase[@name='{name}']")
    return found


def test_every_gate_is_a_case_and_the_counts_add_up():
    report = build_report()
    root = suites(report)
    gates = sum(len(each.gates) for each in report.stages)
    gates += sum(len(each.gates) + (len(each.accuracy.gates) if each.accuracy else 0) for each in report.artifacts)
    cases = root.findall("testsuite/testcase")
    assert len(cases) == gates + len(report.stages) + len(report.artifacts)
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == (str(len(cases)), "0", "1")
    assert case(report, "artifact.openvino int8", "size_ratio <= 1.1").find("failure") is None
    waived = case(report, "artifact.tensorrt sm89-fp32", "verdict").find("skipped")
    assert waived.get("message").startswith("waived: built ahead of time")


def test_a_failed_gate_is_a_failure_with_its_measurement():
    report = dataclasses.replace(build_report(), stages=(stage("optimize", sqnr_db=40.0),))
    failure = case(report, "stage.optimize", "sqnr_db >= 100").find("failure")
    assert failure.get("message") == "measured 40, output 'last_hidden_state'"
    assert case(report, "stage.optimize", "verdict").find("failure") is not None
    assert suites(report).get("failures") == "2"


def test_what_was_not_run_is_skipped_with_the_reason_and_never_a_pass():
    gate = Gate("speedup", 1.2, None, Verdict.NOT_RUN, "no device", ExitCode.SPEED)
    report = build_report()
    artifact = dataclasses.replace(report.artifacts[0], gates=(gate,))
    skipped = case(dataclasses.replace(report, artifacts=(artifact,)), "artifact.onnxruntime fp32", "speedup >= 1.2")
    assert skipped.find("skipped").get("message") == "not run: measured –, no device"


def test_problems_and_crashes_without_gates_show_too():
    broken = stage("trace", outputs=(output(problems=("missing",)),))
    crashed = StageAccuracy("optimize", "fp32", Verdict.FAILED, reason="it crashed")
    report = dataclasses.replace(build_report(), stages=(broken, crashed))
    assert case(report, "stage.trace", "output last_hidden_state").find("failure").get("message") == "missing"
    assert case(report, "stage.optimize", "verdict").find("failure").get("message") == "it crashed"


def test_an_empty_report_is_a_failure():
    root = suites(dataclasses.replace(build_report(), stages=(), artifacts=()))
    assert root.get("failures") == "1"


def test_hostile_names_stay_text():
    report = dataclasses.replace(build_report(), stages=(stage("<a>&\x00\x1b", reason="\ud800\x0b"),))
    assert suites(report).find("testsuite").get("name") == "stage.<a>&\\x00\\x1b"
