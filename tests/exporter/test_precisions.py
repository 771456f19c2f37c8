"""Every precision has its line, and each line's passes are known."""

from __future__ import annotations

import pytest

from exporter.precisions import MAKINGS, need_calibration, use_calibration, use_samples
from passes.parse import pipeline_from_text
from targets.base import PRECISIONS


def test_each_precision_says_how_it_is_made() -> None:
    assert set(MAKINGS) == set(PRECISIONS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_passes_of_a_precision_are_known(precision: str) -> None:
    text = MAKINGS[precision].passes
    assert str(pipeline_from_text(text)) == text
    assert bool(text) == (precision != "fp32")


def test_calibration_is_needed_for_scaled_precisions_alone() -> None:
    assert need_calibration(["fp32", "int8"])
    assert not need_calibration(["fp32", "fp16", "bf16"])


def test_weight_only_uses_samples_but_no_ranges() -> None:
    assert use_samples(["int4-weight-only"])
    assert not use_calibration(["int4-weight-only"])
    assert not use_samples(["fp32"])
    assert use_samples(["fp32", "fp16"])
