"""What a search says of its choice is what it measured."""

from __future__ import annotations

from exporter.evaluation.tolerance import GateSpec
from exporter.results import Latency, OutputAccuracy
from exporter.search.candidates import Candidate
from exporter.search.choice import choose, why_chosen
from exporter.search.racing import Race
from exporter.search.trials import Trial

STRICT = (GateSpec("sqnr_db", 20.0),)
FP32, INT8 = Candidate("fp32"), Candidate("int8")


def why(measured: dict[Candidate, tuple[float, float]]) -> str:
    """Return the reason given for candidates with these milliseconds and signal-to-error ratios."""
    trials = {each: Trial(each, (OutputAccuracy("y", 8, sqnr, 1.0, 0.0, 1.0),)) for each, (_, sqnr) in measured.items()}
    race = Race({each: {"x": Latency("", ms, ms, ms, 9)} for each, (ms, _) in measured.items()})
    return why_chosen(trials, race, choose(trials, race, STRICT, STRICT, "sqnr_db"), STRICT, "sqnr_db")


def test_a_slower_float_choice_is_not_called_the_fastest() -> None:
    text = why({FP32: (1.01, 120.0), INT8: (1.0, 30.0)})
    assert text.startswith("fp32 is within 2% of the fastest that meets the gates (int8) and more accurate")
    assert "quantized is slower" not in text


def test_a_faster_float_choice_is_called_so() -> None:
    assert why({FP32: (1.0, 120.0), INT8: (2.0, 30.0)}).startswith("fp32 is the fastest that meets the gates")


def test_a_mixture_chosen_before_int8_that_meets_the_gates() -> None:
    mixture = Candidate("int8", "bf16", ("a",))
    text = why({FP32: (9.0, 120.0), INT8: (3.0, 30.0), Candidate("int8", "bf16"): (2.0, 10.0), mixture: (2.1, 25.0)})
    assert text.startswith("int8 and bf16 alone misses the gates (sqnr_db 10, wanted 20); int8 with 1 kept in bf16")
