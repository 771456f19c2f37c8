from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest

from exporter.evaluation.gates import parse_gates
from exporter.evaluation.tolerance import GATES, TOLERANCES, UserGate, accuracy_gates, gates_for
from passes.errors import ExitCode, UsageError
from targets.base import PRECISIONS

TARGETS = ("onnxruntime", "openvino", "xla", "tensorrt")


def thresholds(specs):
    return {spec.name: spec.threshold for spec in specs}


def test_every_precision_has_every_default_and_all_are_in_range():
    assert set(TOLERANCES) == {*PRECISIONS, "graph"}
    for row in TOLERANCES.values():
        assert set(row) == {"sqnr_db", "worst_sample_sqnr_db", "cosine", "max_relative"}
        for name, value in row.items():
            assert GATES[name].lowest <= value <= GATES[name].highest


def test_lower_precision_is_never_asked_for_more():
    rows = [TOLERANCES[name] for name in ("graph", "fp32", "fp16", "bf16", "int8")]
    for stricter, looser in itertools.pairwise(rows):
        for name in stricter:
            sign = 1 if GATES[name].bound == "at least" else -1
            assert sign * stricter[name] >= sign * looser[name], name


def test_a_scaled_output_fails_fp32_and_a_swapped_one_every_precision():
    scaled_by_one_percent, unrelated = 40.0, -3.0
    assert scaled_by_one_percent < TOLERANCES["fp32"]["sqnr_db"]
    assert all(unrelated < row["sqnr_db"] for row in TOLERANCES.values())


def test_trace_and_optimize_are_stricter_than_an_fp32_artifact():
    graph = thresholds(gates_for("fp32", stage="trace"))
    assert graph == thresholds(gates_for("fp32", stage="optimize"))
    assert graph["sqnr_db"] == 100 > thresholds(gates_for("fp32", stage="xla fp32", target="xla"))["sqnr_db"] == 80
    assert thresholds(gates_for("int8", stage="optimize"))["sqnr_db"] == TOLERANCES["int8"]["sqnr_db"]


def test_speed_and_size_gates_are_only_asked_of_artifacts():
    user = parse_gates(["speedup=1.1", "size_ratio=0.5"], targets=TARGETS)
    names = set(thresholds(gates_for("int8", stage="openvino int8", target="openvino", user_gates=user)))
    assert {"speedup", "size_ratio"} <= names
    assert not {"speedup", "size_ratio"} & set(thresholds(gates_for("fp32", stage="trace", user_gates=user)))
    assert "speedup" not in thresholds(accuracy_gates(gates_for("int8", stage="x", target="xla", user_gates=user)))
    assert GATES["speedup"].exit_code is GATES["size_ratio"].exit_code is ExitCode.SPEED


def test_a_users_gate_replaces_the_default_of_its_name_alone_and_says_so():
    user = parse_gates(["int8:cosine=0.995"], targets=TARGETS)
    specs = gates_for("int8", stage="openvino int8", target="openvino", user_gates=user)
    cosine = next(spec for spec in specs if spec.name == "cosine")
    assert cosine.threshold == 0.995
    assert cosine.origin == "set by the user instead of 0.9"
    assert thresholds(specs) == {**TOLERANCES["int8"], "cosine": 0.995}
    assert thresholds(gates_for("fp32", stage="xla fp32", target="xla", user_gates=user)) == dict(TOLERANCES["fp32"])


def test_the_narrowest_scope_wins_whatever_the_order():
    texts = ["openvino/int8:sqnr=20", "sqnr=1", "openvino:sqnr=18", "int8:sqnr=16"]
    for order in (texts, texts[::-1]):
        user = parse_gates(order, targets=TARGETS)

        def sqnr(precision, target, user=user):
            return thresholds(gates_for(precision, stage="s", target=target, user_gates=user))["sqnr_db"]

        assert sqnr("int8", "openvino") == 20
        assert sqnr("fp32", "openvino") == 18
        assert sqnr("int8", "xla") == 16
        assert sqnr("fp32", "xla") == 1


def test_parsing_keeps_name_scope_and_value():
    (gate,) = parse_gates([" openvino / int8 : cosine = 0.995 "], targets=TARGETS)
    assert gate == UserGate("cosine", 0.995, precision="int8", target="openvino")
    assert parse_gates([str(gate)], targets=TARGETS) == (gate,)
    assert parse_gates([], targets=TARGETS) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin=0.9", "Did you mean 'cosine'"),
        ("zzz=1", "Known are:"),
        ("openvin:cosine=0.9", "Did you mean 'openvino'"),
        ("int4:cosine=0.9", "Did you mean 'int8'"),
        ("int8/fp32:cosine=0.9", "scoped by 'fp32'"),
        ("cosine", "not of the form"),
        ("=1", "not of the form"),
        ("cosine=", "not of the form"),
        (":cosine=1", "not of the form"),
        ("cosine=high", "needs a number"),
        ("cosine=nan", "out of range"),
        ("sqnr=inf", "out of range"),
        ("cosine=1.5", "between -1 and 1"),
        ("top1=1.01", "between 0 and 1"),
        ("max_abs=-1", "out of range"),
    ],
)
def test_a_bad_gate_is_a_usage_error_that_says_what_is_meant(text, message):
    with pytest.raises(UsageError) as caught:
        parse_gates([text], targets=TARGETS)
    assert message in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_contradicting_gates_are_refused_and_repeated_ones_are_not():
    with pytest.raises(UsageError, match="contradict"):
        parse_gates(["cosine=0.9", "cosine=0.8"], targets=TARGETS)
    assert len(parse_gates(["cosine=0.9", "cosine=0.9"], targets=TARGETS)) == 1


def test_nan_meets_no_gate():
    assert not any(spec.is_met_by(math.nan) for spec in gates_for("fp32", stage="trace"))


def test_the_documented_table_is_the_one_that_holds():
    text = (Path(__file__).parents[3] / "docs" / "verification.md").read_text(encoding="utf-8")
    rows = {
        "fp32, trace and optimize": "graph",
        "fp32 artifact": "fp32",
        "fp16": "fp16",
        "bf16": "bf16",
        "fp8": "fp8",
        "int8": "int8",
        "int8-dynamic": "int8-dynamic",
    }
    for title, row in rows.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {title} |")]
        figures = [float(cell) for cell in line.strip("|").split("|")[1:]]
        columns = ("sqnr_db", "worst_sample_sqnr_db", "cosine", "max_relative")
        assert dict(zip(columns, figures, strict=True)) == dict(TOLERANCES[row])
    for name in GATES:
        assert f"| `{name}`" in text
