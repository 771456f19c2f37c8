from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from exporter.report.json import SCHEMA_FILE, SCHEMA_VERSION, report_to_document, report_to_text, schema
from exporter.report.schema import derive_schema, schema_text, violations
from exporter.results import BuildReport
from tests.support.reports import build_report, output, stage


def parsed(report):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(report_to_text(report), parse_constant=refuse)


def test_the_document_meets_the_shipped_schema():
    document = parsed(build_report())
    assert violations(document, schema()) == []
    assert document["schema_version"] == SCHEMA_VERSION
    assert set(document) == {"schema_version", *(field.name for field in dataclasses.fields(BuildReport))}


def test_the_shipped_schema_is_the_one_of_the_result_types():
    import exporter.report

    shipped = Path(exporter.report.__file__).parent / SCHEMA_FILE
    assert shipped.read_text(encoding="utf-8") == schema_text(), "run: python -m exporter.report.schema > the file"
    assert schema() == derive_schema()


def test_numbers_that_json_lacks_are_words():
    outputs = (output("a", math.inf), output("b", math.nan), output("c", -math.inf))
    document = parsed(dataclasses.replace(build_report(), stages=(stage("trace", outputs=outputs),)))
    assert [each["sqnr_db"] for each in document["stages"][0]["outputs"]] == ["Infinity", "NaN", "-Infinity"]
    assert violations(document, schema()) == []


def test_equal_reports_give_equal_text_and_details_of_any_kind_are_written():
    assert report_to_text(build_report()) == report_to_text(build_report())
    details = {
        "array": np.arange(3),
        "scalar": np.float32(1.5),
        "set": {"b", "a"},
        "path": Path("x"),
        "deep": {1: (math.inf,)},
    }
    report = build_report()
    artifact = dataclasses.replace(report.artifacts[0], details=details)
    written = parsed(dataclasses.replace(report, artifacts=(artifact,)))["artifacts"][0]["details"]
    assert written == {"array": [0, 1, 2], "scalar": 1.5, "set": ["a", "b"], "path": "x", "deep": {"1": ["Infinity"]}}


def test_names_that_no_encoding_takes_are_escaped():
    assert parsed(dataclasses.replace(build_report(), source="bad\udcff.py"))["source"] == "bad\\udcff.py"


def edit(document, path, value):
    *parents, last = path
    for key in parents:
        document = document[key]
    document[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema_version",), 99, "$.schema_version: 99 is not"),
        (("verdict",), "great", "$.verdict: 'great' is none of"),
        (("exit_code",), True, "$.exit_code"),
        (("exit_code",), "3", "$.exit_code"),
        (("stages", 0, "outputs", 0, "sqnr_db"), "inf", "$.stages[0].outputs[0].sqnr_db"),
        (("stages", 0, "outputs", 0, "name"), None, "NoneType where string"),
        (("stages",), {}, "$.stages: dict where array"),
        (("environment", "cpu"), 3, "$.environment.cpu: int where string"),
        (("extra",), 1, "$.extra: unknown"),
    ],
)
def test_the_check_finds_what_breaks_the_schema(path, value, message):
    document = parsed(build_report())
    edit(document, path, value)
    assert any(message in text for text in violations(document, schema()))


def test_the_check_finds_what_is_missing_and_knows_what_it_does_not_know():
    document = parsed(build_report())
    del document["verdict"]
    assert violations(document, schema()) == ["$: 'verdict' is missing"]
    with pytest.raises(AssertionError, match="minimum"):
        violations(3, {"minimum": 1})


def test_the_document_is_plain():
    assert json.loads(json.dumps(report_to_document(build_report()))) == parsed(build_report())
