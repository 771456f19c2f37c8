"""junit.xml: one test case a gate, so that a build server shows each."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from exporter.evaluation.tolerance import GATES
from exporter.report.summary import all_gates, artifact_name
from exporter.report.wording import number_text, printable
from exporter.results import ArtifactReport, BuildReport, Gate, StageAccuracy, Verdict


def junit_text(report: BuildReport) -> str:
    """Return the XML: a suite for each stage and artifact; NOT_RUN and WAIVED are skipped, FAILED is a failure.

    A stage or artifact without gates is itself one case, so that a crash or a blocked model shows too.
    """
    suites = ElementTree.Element("testsuites", name="graphwright")
    for stage in report.stages:
        _add_stage(suites, stage)
    for artifact in report.artifacts:
        _add_artifact(suites, artifact)
    if not len(suites):
        suite = ElementTree.SubElement(suites, "testsuite", name="build")
        case = ElementTree.SubElement(suite, "testcase", classname="build", name="result")
        ElementTree.SubElement(case, "failure", message="nothing was checked")
    for suite in suites:
        _count(suite, [suite])
    _count(suites, list(suites))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _add_stage(suites: ElementTree.Element, stage: StageAccuracy) -> None:
    name = f"stage.{printable(stage.stage)}"
    suite = ElementTree.SubElement(suites, "testsuite", name=name)
    _add_gates(suite, stage.gates)
    for output in stage.outputs:
        for problem in output.problems:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=f"output {printable(output.name)}")
            ElementTree.SubElement(case, "failure", message=printable(problem))
    _add_verdict(suite, stage.verdict, stage.reason)


def _add_artifact(suites: ElementTree.Element, artifact: ArtifactReport) -> None:
    suite = ElementTree.SubElement(suites, "testsuite", name=f"artifact.{artifact_name(artifact)}")
    _add_gates(suite, all_gates(artifact))
    reason = "; ".join(part for part in (artifact.reason, *artifact.blockers) if part)
    if not reason and artifact.accuracy is not None:
        reason = artifact.accuracy.reason
    _add_verdict(suite, artifact.verdict, reason)


def _add_gates(suite: ElementTree.Element, gates: Iterable[Gate]) -> None:
    for gate in gates:
        sign = ">=" if GATES[gate.name].bound == "at least" else "<="
        name = f"{gate.name} {sign} {number_text(gate.threshold)}"
        case = ElementTree.SubElement(suite, "testcase", classname=suite.get("name", ""), name=name)
        message = ", ".join(part for part in (f"measured {number_text(gate.measured)}", printable(gate.reason)) if part)
        _add_outcome(case, gate.verdict, message)


def _add_verdict(suite: ElementTree.Element, verdict: Verdict, reason: str) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=suite.get("name", ""), name="verdict")
    _add_outcome(case, verdict, printable(reason) or verdict.value)


def _add_outcome(case: ElementTree.Element, verdict: Verdict, message: str) -> None:
    if verdict is Verdict.FAILED:
        ElementTree.SubElement(case, "failure", message=message)
    elif verdict is Verdict.PASSED:
        ElementTree.SubElement(case, "system-out").text = message
    else:
        ElementTree.SubElement(case, "skipped", message=f"{verdict.value}: {message}")


def _count(element: ElementTree.Element, suites: Iterable[ElementTree.Element]) -> None:
    listed = list(suites)
    for name, path in (("tests", "testcase"), ("failures", "testcase/failure"), ("skipped", "testcase/skipped")):
        element.set(name, str(sum(len(suite.findall(path)) for suite in listed)))
