from __future__ import annotations

import gc
import math
import time

import numpy as np
import pytest

from exporter.evaluation.gates import parse_gates
from exporter.evaluation.speed import TimingPlan, judge_size, judge_speed, measure
from exporter.evaluation.statistics import NO_DIFFERENCE
from exporter.evaluation.tolerance import gates_for
from exporter.results import Verdict
from passes.errors import ExitCode, UsageError


@pytest.fixture(autouse=True)
def an_idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others do on the machine that tests run on is not what these are about; test_interference is."""
    monkeypatch.setattr("exporter.evaluation.speed.share_of_others", lambda before, after: 0.0)


FEEDS = {"x": np.zeros((2, 3), np.float32)}
PLAN = TimingPlan(budget_s=60.0, warmup_s=1.0, most_rounds=25)


class Clock:
    """A simulated machine: each call takes its time, times noise that drifts and has bursts."""

    def __init__(self, seed=0, noise=0.1, burst=0.0):
        self.now_ns = 0
        self.rng = np.random.default_rng(seed)
        self.noise, self.burst, self.drift = noise, burst, 1.0
        self.calls = []

    def __call__(self):
        return self.now_ns

    def runner(self, label, ms):
        def run(feeds):
            self.calls.append(label)
            self.drift = self.drift**0.99 * float(self.rng.lognormal(0, 0.02))
            factor = self.drift * float(self.rng.lognormal(0, self.noise))
            if self.rng.random() < self.burst:
                factor *= 10
            self.now_ns += int(ms * 1e6 * factor)

        return run


def session(times, **clock):
    machine = Clock(**clock)
    runners = {label: machine.runner(label, ms) for label, ms in times.items()}
    return measure(runners, FEEDS, threads=1, plan=PLAN, clock_ns=machine), machine


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.4])
def test_equal_runners_are_never_called_different(noise):
    for seed in range(30):
        result, _ = session({"a": 5.0, "b": 5.0, "c": 5.0}, seed=seed, noise=noise, burst=0.05)
        for pair in (("a", "b"), ("a", "c"), ("b", "c"), ("c", "a")):
            assert result.compare(*pair).conclusion == NO_DIFFERENCE, (seed, pair)


def test_twice_as_fast_is_found_in_noise_and_in_both_directions():
    for seed in range(20):
        result, _ = session({"original": 8.0, "artifact": 4.0}, seed=seed, noise=0.15, burst=0.05)
        faster = result.compare("original", "artifact")
        assert faster.conclusion == "faster"
        assert 1.6 < faster.ratio < 2.5
        assert faster.ratio_low <= faster.ratio <= faster.ratio_high
        assert result.compare("artifact", "original").conclusion == "slower"


def test_a_difference_below_the_margin_is_not_claimed_even_without_noise():
    result, machine = session({"a": 5.0, "b": 4.95}, noise=0.0)
    assert result.compare("a", "b").conclusion == NO_DIFFERENCE
    assert set(machine.calls) == {"a", "b"}


def test_real_sleeps_are_told_apart():
    plan = TimingPlan(budget_s=0.3, warmup_s=0.05, fewest_rounds=10)
    runners = {"slow": lambda feeds: time.sleep(0.004), "fast": lambda feeds: time.sleep(0.002)}
    result = measure(runners, FEEDS, threads=3, plan=plan)
    comparison = result.compare("slow", "fast")
    assert comparison.conclusion == "faster"
    assert comparison.threads == 3
    assert comparison.input_shapes == "x [2, 3]"
    assert comparison.noise_floor >= 0.02


def test_rounds_interleave_all_runners_in_changing_order_and_the_first_twice():
    result, machine = session({"a": 5.0, "b": 5.0}, noise=0.01)
    timed = machine.calls[-3 * result.rounds :]
    rounds = [tuple(timed[index : index + 3]) for index in range(0, len(timed), 3)]
    assert all(sorted(each) == ["a", "a", "b"] for each in rounds)
    assert len(set(rounds)) == 3
    assert result.rounds == PLAN.most_rounds
    assert result.warmup_calls["a"] >= 11


def test_quick_calls_are_timed_in_blocks_and_reported_one_by_one():
    result, machine = session({"a": 0.01}, noise=0.01)
    assert result.latency("a").median_ms == pytest.approx(0.01, rel=0.5)
    assert len(machine.calls) > 100 * result.rounds


def test_the_budget_bounds_the_rounds_but_for_the_fewest_that_give_an_interval():
    machine = Clock(noise=0.0)
    plan = TimingPlan(budget_s=0.1, warmup_s=0.01)
    quick = measure({"a": machine.runner("a", 1.0)}, FEEDS, threads=1, plan=plan, clock_ns=machine)
    assert 10 <= quick.rounds <= 60
    slow = measure({"a": machine.runner("a", 1000.0)}, FEEDS, threads=1, plan=plan, clock_ns=machine)
    assert slow.rounds == 6
    assert math.isfinite(slow.latency("a").high_ms)


def test_warming_up_ends_when_stable_and_lasts_while_it_is_not():
    machine = Clock(noise=0.0)
    slowdowns = iter([*(2.0**-i for i in range(40)), *[2.0**-40] * 10_000])

    def settling(feeds):
        machine.now_ns += int(1e6 * (5 + 50 * next(slowdowns)))

    result = measure({"a": settling, "b": machine.runner("b", 5.0)}, FEEDS, threads=1, plan=PLAN, clock_ns=machine)
    assert result.warmup_calls["a"] > result.warmup_calls["b"] == 11
    assert max(result.times_ms["a"]) < 6


def test_a_runner_that_fails_is_left_out_with_its_reason_and_the_rest_is_measured():
    machine = Clock()

    def broken(feeds):
        raise RuntimeError("no kernel")

    runners = {"broken": broken, "a": machine.runner("a", 5.0), "b": machine.runner("b", 5.0)}
    result = measure(runners, FEEDS, threads=1, plan=PLAN, clock_ns=machine)
    assert result.failed == {"broken": "RuntimeError: no kernel"}
    assert list(result.times_ms) == ["a", "b"]
    assert measure({"broken": broken}, FEEDS, threads=1).times_ms == {}
    with pytest.raises(UsageError):
        measure({}, FEEDS, threads=1)


def test_garbage_collection_rests_while_timing_and_comes_back_even_after_an_error():
    states, machine = [], Clock()

    def watching(feeds):
        states.append(gc.isenabled())
        machine.now_ns += 5_000_000
        if len(states) == 30:
            raise RuntimeError("late")

    with pytest.raises(RuntimeError):
        measure({"a": watching}, FEEDS, threads=1, plan=PLAN, clock_ns=machine)
    assert not any(states)
    assert gc.isenabled()


def specs(*texts):
    user = parse_gates(texts, targets=("openvino",))
    return gates_for("int8", stage="openvino int8", target="openvino", user_gates=user)


def test_a_speed_gate_asks_for_what_is_proved():
    result, _ = session({"original": 8.0, "artifact": 4.0}, noise=0.1)
    comparison = result.compare("original", "artifact")
    (passed,) = judge_speed(specs("speedup=1.2"), comparison)
    assert passed.verdict is Verdict.PASSED
    (failed,) = judge_speed(specs(f"speedup={comparison.ratio}"), comparison)
    assert failed.verdict is Verdict.FAILED
    assert failed.measured == comparison.ratio_low
    assert failed.exit_code is ExitCode.SPEED
    (not_run,) = judge_speed(specs("speedup=1.2"), None, reason="no device")
    assert (not_run.verdict, not_run.reason) == (Verdict.NOT_RUN, "no device")
    assert judge_speed(specs(), comparison) == ()


def test_a_size_gate_compares_bytes():
    def verdict(artifact_bytes, model_bytes=100):
        (gate,) = judge_size(specs("size_ratio=0.3"), artifact_bytes=artifact_bytes, model_bytes=model_bytes)
        assert gate.exit_code is ExitCode.SPEED
        return gate.verdict

    assert verdict(30) is Verdict.PASSED
    assert verdict(31) is Verdict.FAILED
    assert verdict(0) is verdict(30, 0) is Verdict.NOT_RUN
