"""A timing that other processes disturbed concludes nothing."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from exporter.evaluation import speed
from exporter.evaluation.interference import MOST_SHARE, ProcessorTimes, processor_times, share_of_others
from exporter.evaluation.speed import TimingPlan, measure

FEEDS = {"x": np.zeros((1, 2), np.float32)}
RUNNERS = {"slow": lambda feeds: time.sleep(0.004), "fast": lambda feeds: time.sleep(0.001)}
PLAN = TimingPlan(budget_s=0.3, warmup_s=0.05)


def test_a_busy_neighbour_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            before = processor_times()
            time.sleep(1.0)
            share = share_of_others(before, processor_times())
        finally:
            neighbour.kill()
    assert share is not None
    assert share > 0.15


def test_our_own_work_is_not_others() -> None:
    assert share_of_others(ProcessorTimes(0.0, 0.0, 0.0), ProcessorTimes(10.0, 5.0, 5.0)) == 0.0


@pytest.mark.parametrize(
    ("share", "conclusion"), [(0.0, "faster"), (None, "faster"), (0.5, "no difference beyond noise")]
)
def test_a_disturbed_timing_concludes_nothing(
    monkeypatch: pytest.MonkeyPatch, share: float | None, conclusion: str
) -> None:
    monkeypatch.setattr(speed, "share_of_others", lambda before, after: share)
    session = measure(RUNNERS, FEEDS, threads=1, plan=PLAN)
    comparison = session.compare("slow", "fast")
    assert comparison.conclusion == conclusion
    assert any("nothing is concluded" in note for note in comparison.notes) == (
        share is not None and share > MOST_SHARE
    )
