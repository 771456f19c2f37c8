"""Every precision has its line, and each line's passes are known."""

from __future__ import annotations

import pytest

from exporter.precisions import MAKINGS, need_calibration
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
