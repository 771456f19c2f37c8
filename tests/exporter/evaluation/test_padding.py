"""Positions that a mask marks as padding are not compared; all others are, and every position must be finite."""

from __future__ import annotations

import numpy as np

from exporter.evaluation.accuracy import compare_runs
from exporter.evaluation.padding import padding_of
from exporter.evaluation.tolerance import gates_for
from exporter.results import StageAccuracy, Verdict

RANDOM = np.random.default_rng(3)
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=np.int64)
STATES = RANDOM.standard_normal((2, 4, 8)).astype(np.float32)
FEEDS = {"mask": MASK}


def compare(states: np.ndarray, *, mask: str | None = "mask") -> StageAccuracy:
    pooled = {"pooled": STATES.mean(axis=1)}
    references = [(FEEDS, {"states": STATES, **pooled})]
    return compare_runs(
        references,
        lambda feeds: {"states": states, **pooled},
        stage="optimize",
        precision="fp32",
        gates=gates_for("fp32", stage="optimize"),
        padding=padding_of(mask, references) if mask else None,
    )


def test_other_values_at_padding_pass_only_with_the_mask() -> None:
    states = np.where(MASK[..., None] != 0, STATES, STATES + 5)
    assert compare(states).verdict is Verdict.PASSED
    assert compare(states, mask=None).verdict is Verdict.FAILED


def test_a_wrong_value_at_a_real_position_fails() -> None:
    states = STATES.copy()
    states[0, 2, 3] += 1
    stage = compare(states)
    assert stage.verdict is Verdict.FAILED
    assert "states" in stage.reason


def test_nan_at_padding_fails() -> None:
    states = STATES.copy()
    states[1, 3] = np.nan
    assert compare(states).verdict is Verdict.FAILED


def test_the_count_of_elements_says_what_was_compared() -> None:
    by_name = {output.name: output for output in compare(STATES).outputs}
    assert by_name["states"].elements == 4 * 8
    assert by_name["pooled"].elements == 2 * 8


def test_sizes_that_agree_by_chance_are_not_taken_for_tokens() -> None:
    heads = 4  # as many as the first sample has tokens
    short = {"mask": MASK[:, :3]}
    references = [
        (FEEDS, {"states": STATES, "per_head": np.ones((2, heads, 8), np.float32)}),
        (short, {"states": STATES[:, :3], "per_head": np.ones((2, heads, 8), np.float32)}),
    ]
    assert padding_of("mask", references).outputs == {"states"}
