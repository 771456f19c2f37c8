"""Ahead-of-time compilation for a TPU topology: skipped only where libtpu is absent."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from passes.errors import BuildFailed, CannotRun
from targets.base import BuildOptions, DimRange
from targets.manifest import read_manifest
from targets.xla.target import XlaTarget
from tests.support.small_models import SMALL_MODELS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")


def options(topology: str, batch: int = 2, **more) -> BuildOptions:
    dims = {"batch": DimRange(1, batch, batch), "sequence": DimRange(1, 5, 8)}
    return BuildOptions(settings={"topology": topology}, dims=dims, **more)


def test_compiles_and_reports_and_does_not_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target, chosen = XlaTarget(), options("v5e:2x2", precision="bf16")
    model = SMALL_MODELS["mlp"].model()
    assert target.blockers(model, chosen) == ()
    artifact = target.build(model, tmp_path, chosen)
    manifest = read_manifest(tmp_path)
    assert not manifest.runs_here
    assert manifest.device == "v5e:2x2"
    assert manifest.inputs[0].shape == (2, 6)
    memory, cost = manifest.details["memory"], manifest.details["cost"]
    assert memory["argument_bytes"] > 0
    assert memory["code_bytes"] > 0
    assert cost["flops"] >= 2 * 2 * (6 * 16 + 16 * 3)
    assert manifest.details["chip"]["hbm_bytes"] == 16 << 30
    with pytest.raises(CannotRun, match="compiled ahead of time for v5e:2x2; this machine has no TPU"):
        target.open(artifact).__enter__()
    monkeypatch.setattr("targets.xla.runner.has_tpu", lambda: True)
    with pytest.raises(CannotRun, match="running such a program is not implemented"):
        target.open(artifact).__enter__()


def test_a_program_that_does_not_fit_says_so_with_figures(tmp_path: Path):
    with pytest.raises(BuildFailed, match=r"does not fit one v5e chip \(16 GiB\).*HBM"):
        XlaTarget().build(SMALL_MODELS["convolutions"].model(), tmp_path, options("v5e:2x2", batch=40_000_000))


def test_stops_at_the_time_limit(tmp_path: Path):
    with pytest.raises(BuildFailed, match="time limit"):
        XlaTarget().build(SMALL_MODELS["mlp"].model(), tmp_path, options("v5e:2x2", time_limit_s=0.2))
