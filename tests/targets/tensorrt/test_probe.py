"""`probe` tells absent from broken and never raises, whatever is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from targets.tensorrt import backend, target
from targets.tensorrt.backend import Package, find_package
from targets.tensorrt.device import Gpu
from targets.tensorrt.target import TensorRtTarget


@pytest.fixture
def fresh_packages() -> Iterator[None]:
    find_package.cache_clear()
    yield
    find_package.cache_clear()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise ImportError('libnvinfer.so.11: cannot open shared object file')", "libnvinfer.so.11"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("", "__version__"),
    ],
)
def test_a_broken_package_is_told_from_an_absent_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_packages: None, source: str, words: str
) -> None:
    (tmp_path / "planted_tensorrt.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(backend.MODULES, "full", "planted_tensorrt")
    found = find_package("full")
    assert "installed but broken" in found.problem
    assert words in found.problem
    assert not found.is_absent


def test_an_absent_package_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch, fresh_packages: None) -> None:
    monkeypatch.setitem(backend.MODULES, "full", "no_such_tensorrt")
    assert find_package("full") == Package(problem="no_such_tensorrt is not installed", is_absent=True)


ABSENT = Package(problem="not installed", is_absent=True)


@pytest.mark.parametrize(
    ("gpu", "rtx", "full", "can_run", "words"),
    [
        (None, ABSENT, ABSENT, False, "only the TensorRT-ready ONNX"),
        (None, Package("1.7"), ABSENT, False, "built ahead of time and not run"),
        (Gpu("L4", 89), Package("1.7"), ABSENT, True, ""),
        (Gpu("L4", 89), ABSENT, ABSENT, False, "only the TensorRT-ready ONNX"),
        (Gpu("L4", 89), Package("1.7"), Package(problem="tensorrt is installed but broken"), True, "broken"),
        (None, ABSENT, Package("11.4"), False, "no engine can be built"),
    ],
)
def test_readiness(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, rtx: Package, full: Package, can_run: bool, words: str
) -> None:
    monkeypatch.setattr(target, "find_gpu", lambda: gpu)
    monkeypatch.setattr(target, "find_package", {"rtx": rtx, "full": full}.__getitem__)
    found = TensorRtTarget().probe()
    assert found.can_build
    assert found.can_run == can_run
    assert words in found.reason
    assert bool(found.reason) == bool(words)
