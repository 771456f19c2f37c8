"""Planted faults: each turns the stage red, names the output, and maps to exit code 3."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from exporter.evaluation.accuracy import compare_runs
from exporter.evaluation.gates import parse_gates
from exporter.evaluation.tolerance import TOLERANCES, gates_for
from exporter.results import Verdict
from passes.errors import CannotRun, ExitCode

RNG = np.random.default_rng(7)
WEIGHT = RNG.normal(size=(16, 12)).astype(np.float32)
SAMPLES = [{name: RNG.normal(size=(size, 16)).astype(np.float32) for name in ("left", "right")} for size in (1, 2, 5)]


def original(feeds):
    logits = (feeds["left"] - 0.5 * feeds["right"]) @ WEIGHT
    gate = np.tanh(feeds["right"]) @ WEIGHT
    return {"logits": logits, "gate": gate, "ids": logits.argmax(axis=1)}


def compare(candidate, *, precision="fp32", stage="optimize", samples=SAMPLES, gates=(), reference=original):
    user = parse_gates(gates, targets=())
    return compare_runs(
        ((feeds, reference(feeds)) for feeds in samples),
        candidate,
        stage=stage,
        precision=precision,
        gates=gates_for(precision, stage=stage, user_gates=user),
    )


def changed(**edits):
    """Return a candidate whose outputs are edited by name; an edit to None drops the output."""

    def candidate(feeds):
        outputs = original(feeds)
        for name, edit in edits.items():
            outputs[name] = edit(outputs.get(name), feeds)
        return {name: value for name, value in outputs.items() if value is not None}

    return candidate


def test_the_original_against_itself_passes_and_covers_all_shapes():
    stage = compare(original)
    assert stage.verdict is Verdict.PASSED, stage.reason
    assert stage.exit_code is ExitCode.OK
    assert stage.samples == 3
    assert stage.input_shapes == tuple(f"left [{size}, 16], right [{size}, 16]" for size in (1, 2, 5))
    by_name = {output.name: output for output in stage.outputs}
    assert by_name["logits"].sqnr_db == math.inf
    assert by_name["logits"].top1_agreement == by_name["ids"].top1_agreement == 1.0
    assert by_name["ids"].is_exact


FAULTS = {
    "flipped sign": (changed(logits=lambda y, _: -y), "'logits'"),
    "scaled by 1.01": (changed(logits=lambda y, _: y * np.float32(1.01)), "'logits'"),
    "scaled by 1.001": (changed(gate=lambda y, _: y * np.float32(1.001)), "'gate'"),
    "dropped": (changed(gate=lambda y, _: None), "'gate': sample 0 (left [1, 16], right [1, 16]): missing"),
    "extra": (changed(debug=lambda _, feeds: feeds["left"]), "'debug': sample 0"),
    "swapped inputs": (lambda feeds: original({"left": feeds["right"], "right": feeds["left"]}), "'logits'"),
    "swapped outputs": (
        lambda feeds: (lambda out: {**out, "logits": out["gate"], "gate": out["logits"]})(original(feeds)),
        "sqnr_db",
    ),
    "NaN": (changed(logits=lambda y, _: np.where(y == y.max(), np.nan, y).astype(y.dtype)), "not finite"),
    "infinity": (changed(logits=lambda y, _: y * np.float32(np.inf)), "not finite"),
    "misshapen": (changed(logits=lambda y, _: y[..., :-1]), "its shape is [1, 11], the original's [1, 12]"),
    "another rank": (changed(logits=lambda y, _: y[None]), "its shape is [1, 1, 12]"),
    "another type": (changed(logits=lambda y, _: y.astype(np.float64)), "its type is float64"),
    "narrower integers": (changed(ids=lambda y, _: y.astype(np.int32)), "its type is int32"),
    "batch > 1 only": (changed(logits=lambda y, _: y if len(y) == 1 else y[::-1].copy()), "'logits'"),
    "last row of a batch": (changed(gate=lambda y, _: np.vstack([y[:-1], y[-1:] * 1.05]).astype(y.dtype)), "'gate'"),
    "integers off by one": (changed(ids=lambda y, _: y + 1), "top1_agreement is 0"),
    "one integer off by one": (changed(ids=lambda y, _: y + (np.arange(len(y)) == 4)), "'ids'"),
    "nothing at all": (lambda feeds: {}, "missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_stage_by_name_with_exit_code_3(fault):
    candidate, named = FAULTS[fault]
    stage = compare(candidate)
    assert stage.verdict is Verdict.FAILED
    assert stage.exit_code is ExitCode.ACCURACY == 3
    assert stage.stage == "optimize"
    assert named in stage.reason


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("fault", ["flipped sign", "swapped inputs", "swapped outputs", "NaN", "dropped", "infinity"])
def test_a_gross_fault_fails_at_every_precision(fault, precision):
    assert compare(FAULTS[fault][0], precision=precision, stage="x").verdict is Verdict.FAILED


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_one_bad_sample_among_many_good_ones_is_found_though_the_mean_is_good(precision):
    samples = [{name: RNG.normal(size=(1, 16)).astype(np.float32) for name in ("left", "right")} for _ in range(500)]
    bad = samples[400]["left"]
    candidate = changed(logits=lambda y, feeds: y * 2 if feeds["left"] is bad else y)
    stage = compare(candidate, precision=precision, stage="x", samples=samples, gates=["max_relative=100"])
    assert "worst_sample_sqnr_db" in stage.reason
    worst = next(output for output in stage.outputs if output.name == "logits")
    assert worst.worst_sample.startswith("sample 400 ")
    if precision != "fp16":
        assert worst.sqnr_db > TOLERANCES[precision]["sqnr_db"]


def test_a_single_wrong_element_among_a_million_is_found():
    wide = [{"x": RNG.normal(size=(1000, 1000)).astype(np.float32)}]

    def candidate(feeds):
        wrong = feeds["x"].copy()
        wrong[500, 500] += 0.02
        return {"y": wrong}

    stage = compare(candidate, samples=wide, stage="x", reference=lambda feeds: {"y": feeds["x"]})
    assert stage.outputs[0].sqnr_db > TOLERANCES["fp32"]["sqnr_db"]
    assert stage.verdict is Verdict.FAILED
    assert "max_relative" in stage.reason


def test_a_wrong_sign_in_a_batch_norm_turns_the_stage_red():
    import onnx.parser
    from onnx.reference import ReferenceEvaluator

    text = """<ir_version: 10, opset_import: ["" : 20]>
    g (float[N, 2, 4] x) => (float[N, 2, 4] y)
    <float[2] s = {1.5, SIGN 0.7}, float[2] b = {0.1, 0.2}, float[2] m = {0.3, -0.4}, float[2] v = {1.0, 2.0}>
    { y = BatchNormalization(x, s, b, m, v) }"""
    right, wrong = (ReferenceEvaluator(onnx.parser.parse_model(text.replace("SIGN ", sign))) for sign in ("", "-"))
    samples = [{"x": RNG.normal(size=(size, 2, 4)).astype(np.float32)} for size in (1, 3)]

    def run(session):
        return lambda feeds: {"y": session.run(None, dict(feeds))[0]}

    assert compare(run(right), samples=samples, reference=run(right)).verdict is Verdict.PASSED
    stage = compare(run(wrong), samples=samples, reference=run(right))
    assert stage.verdict is Verdict.FAILED
    assert "sqnr_db" in stage.reason


def test_a_runner_that_raises_has_failed_with_its_reason_and_sample():
    def candidate(feeds):
        if len(feeds["left"]) > 1:
            raise ValueError("bad batch\nlong trace")
        return original(feeds)

    stage = compare(candidate)
    assert stage.verdict is Verdict.FAILED
    assert stage.reason == "sample 1 (left [2, 16], right [2, 16]): ValueError: bad batch"


def test_a_runner_without_a_device_is_not_run_and_never_passed():
    def candidate(feeds):
        raise CannotRun("no GPU here")

    stage = compare(candidate)
    assert stage.verdict is Verdict.NOT_RUN
    assert stage.exit_code is ExitCode.NOT_RUN
    assert "no GPU here" in stage.reason


def test_interruption_is_not_swallowed():
    def candidate(feeds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(candidate)


def test_no_samples_no_outputs_and_no_gates_have_not_passed():
    assert compare(original, samples=[]).verdict is Verdict.NOT_RUN
    assert compare(lambda feeds: {}, reference=lambda feeds: {}).verdict is Verdict.FAILED
    pairs = ((feeds, {"logits": original(feeds)["logits"]}) for feeds in SAMPLES)
    ungated = compare_runs(pairs, original_logits, stage="s", precision="fp32", gates=())
    assert ungated.verdict is Verdict.NOT_RUN


def original_logits(feeds):
    return {"logits": original(feeds)["logits"]}


def test_an_output_that_the_original_itself_cannot_compute_fails_and_says_whose_fault_it_is():
    def broken(feeds):
        return {"y": feeds["left"] * np.float32(np.nan)}

    stage = compare(broken, reference=broken)
    assert stage.verdict is Verdict.FAILED
    assert "the original itself gives 16 elements that are not finite" in stage.reason


def test_zero_and_constant_outputs_are_told():
    def flat(value):
        return lambda feeds: {"y": np.full((len(feeds["left"]), 12), value, np.float32)}

    constant = compare(flat(0.5), reference=flat(0.5))
    assert constant.verdict is Verdict.PASSED
    assert "same for every sample" in constant.outputs[0].notes[0]
    zero = compare(flat(0.0), reference=flat(0.0))
    assert zero.verdict is not Verdict.PASSED  # the cosine of nothing is no evidence
    assert "zero for every sample" in zero.outputs[0].notes[0]
    assert compare(flat(1e-12), reference=flat(0.0)).verdict is Verdict.FAILED
    assert compare(flat(0.0), reference=flat(0.5)).verdict is Verdict.FAILED


def test_outputs_without_elements_have_not_passed():
    def empty(feeds):
        return {"y": np.empty((0, 12), np.float32)}

    assert compare(empty, reference=empty).verdict is Verdict.NOT_RUN


def test_integer_outputs_alone_are_judged_by_equality():
    def ids(feeds):
        return {"ids": original(feeds)["ids"], "mask": feeds["left"] > 0}

    stage = compare(ids, reference=ids)
    assert stage.verdict is Verdict.PASSED
    assert [gate.name for gate in stage.gates] == ["top1_agreement"]
    flipped = compare(lambda feeds: {**ids(feeds), "mask": feeds["left"] <= 0}, reference=ids)
    assert "output 'mask'" in flipped.reason


def test_the_user_may_allow_some_integers_to_differ():
    candidate = changed(ids=lambda y, _: y + (np.arange(len(y)) == 4))
    assert compare(candidate, gates=["top1_agreement=0.8"]).verdict is Verdict.PASSED
    assert compare(candidate, gates=["top1_agreement=0.9"]).verdict is Verdict.FAILED


def test_a_gate_that_nothing_was_measured_for_is_not_run():
    def embedding(feeds):
        return {"y": np.repeat(feeds["left"][:, None], 2, axis=1)}

    stage = compare(embedding, reference=embedding, gates=["top1_agreement=0.9"])
    assert stage.verdict is Verdict.NOT_RUN
    assert "top1_agreement is not measured" in stage.reason


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.complex64])
def test_other_float_types_are_compared_by_value(dtype):
    def cast(feeds):
        return {"y": original(feeds)["logits"].astype(dtype)}

    assert compare(cast, reference=cast).verdict is Verdict.PASSED
    off = compare(lambda feeds: {"y": (cast(feeds)["y"] * dtype(1.5)).astype(dtype)}, reference=cast)
    assert off.verdict is Verdict.FAILED


def test_many_shapes_are_cut_short_in_words():
    samples = [
        {"left": np.ones((size, 16), np.float32), "right": np.ones((size, 16), np.float32)} for size in range(1, 31)
    ]
    stage = compare(original, samples=samples)
    assert len(stage.input_shapes) == 12
    assert stage.input_shapes[-1] == "and 19 more"
