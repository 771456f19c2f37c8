"""The options after `--target tensorrt:` are checked once and say what is known."""

from __future__ import annotations

import pytest

from passes.errors import UsageError
from targets.base import BuildOptions
from targets.tensorrt import backend as backend_module
from targets.tensorrt import device
from targets.tensorrt.backend import Choice, Package, choose
from targets.tensorrt.device import Gpu, gpu_from_csv
from targets.tensorrt.settings import Settings, settings_from_text
from targets.tensorrt.target import TensorRtTarget


@pytest.mark.parametrize("text", ["80+89", "sm89+SM80", "8.9+8.0", "89+80+89"])
def test_compute_capabilities_are_read_in_any_spelling(text: str) -> None:
    assert settings_from_text({"sm": text}).architectures == (80, 89)


def test_every_setting_is_read() -> None:
    texts = {"sm": "89", "backend": "rtx", "workspace": "2GiB", "optimization_level": "5", "tf32": "true"}
    assert settings_from_text(texts) == Settings((89,), "rtx", 2 << 30, 5, tf32=True)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"sm": "88"}, "not a compute capability"),
        ({"sm": ""}, "not a compute capability"),
        ({"workspce": "1GiB"}, "Did you mean workspace"),
        ({"workspace": "1GB"}, "workspace=512MiB"),
        ({"workspace": "0"}, "not a size"),
        ({"optimization_level": "6"}, "0 to 5"),
        ({"tf32": "yes"}, "neither true nor false"),
        ({"backend": "cuda"}, "backend=cuda"),
        ({"backend": "rtx", "sm": "90"}, "does not build for SM90"),
    ],
)
def test_unfit_settings_are_refused(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TensorRtTarget().check(BuildOptions(settings=texts))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_one_of_the_architectures_lacks_is_refused(precision: str) -> None:
    options = BuildOptions(precision=precision, settings={"sm": "75+89"})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"SM75 does not compute in {precision}"):
        TensorRtTarget().check(options)


def test_capabilities_are_those_that_all_architectures_share() -> None:
    target = TensorRtTarget()
    assert "fp8" in target.capabilities(BuildOptions(settings={"sm": "89"})).precisions
    shared = target.capabilities(BuildOptions(settings={"sm": "75+89"}))
    assert shared.precisions == {"fp32", "fp16"}
    assert shared.quantization.symmetric_activations
    assert shared.has_kernel("Gelu")
    assert not shared.has_kernel("Attention")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A pretended machine: its GPU and what it has of the two packages."""
    state: dict[str, object] = {"gpu": None, "rtx": Package(version="1"), "full": Package(version="11")}
    monkeypatch.setattr(backend_module, "find_gpu", lambda: state["gpu"])
    monkeypatch.setattr(backend_module, "find_package", lambda name: state[name])
    return state


def test_labels_name_what_is_built(machine: dict[str, object]) -> None:
    target = TensorRtTarget()
    assert target.label(BuildOptions(settings={})) == "onnx-fp32"
    assert target.label(BuildOptions(settings={"sm": "89+80"}, precision="fp16")) == "sm80+89-fp16"
    machine["gpu"] = Gpu("L4", 89)
    assert target.label(BuildOptions(settings={}, precision="int8")) == "sm89-int8"


ABSENT = Package(problem="not installed", is_absent=True)
L4, H100 = Gpu("L4", 89), Gpu("H100", 90)


@pytest.mark.parametrize(
    ("gpu", "rtx", "full", "settings", "expected"),
    [
        (None, Package("1"), ABSENT, {}, Choice(None)),
        (None, Package("1"), ABSENT, {"sm": "80+89"}, Choice("rtx", (80, 89))),
        (None, Package("1"), Package("11"), {"sm": "89"}, Choice("rtx", (89,))),
        (L4, Package("1"), Package("11"), {}, Choice("full", (89,))),
        (L4, Package("1"), Package("11"), {"sm": "89"}, Choice("full", (89,))),
        (L4, Package("1"), Package("11"), {"sm": "89", "backend": "rtx"}, Choice("rtx", (89,))),
        (L4, Package("1"), Package("11"), {"sm": "80"}, Choice("rtx", (80,))),
        (L4, Package("1"), ABSENT, {}, Choice("rtx", (89,))),
        (L4, ABSENT, ABSENT, {}, Choice(None)),
        (H100, Package("1"), ABSENT, {}, Choice(None)),
        (H100, ABSENT, Package("11"), {}, Choice("full", (90,))),
        (H100, ABSENT, Package("11"), {"backend": "full", "sm": "90"}, Choice("full", (90,))),
    ],
)
def test_the_builder_is_chosen_by_settings_packages_and_gpu(
    machine: dict[str, object],
    gpu: Gpu | None,
    rtx: Package,
    full: Package,
    settings: dict[str, str],
    expected: Choice,
) -> None:
    machine.update(gpu=gpu, rtx=rtx, full=full)
    found = choose(settings_from_text(settings))
    assert (found.backend, found.architectures) == (expected.backend, expected.architectures)
    assert (found.backend is None) == bool(found.reason)


@pytest.mark.parametrize(
    ("gpu", "rtx", "full", "settings", "message"),
    [
        (None, ABSENT, ABSENT, {"sm": "89"}, r"not installed[\s\S]*pip install 'graphwright\[tensorrt-rtx\]'"),
        (None, Package(problem="it is broken"), ABSENT, {"sm": "89"}, r"it is broken[\s\S]*Reinstall"),
        (None, Package("1"), Package("11"), {"backend": "rtx"}, "Name one: sm=89"),
        (None, Package("1"), Package("11"), {"backend": "full"}, "only on a machine with an NVIDIA GPU"),
        (L4, Package("1"), Package("11"), {"backend": "full", "sm": "80"}, "not for SM80"),
        (L4, Package("1"), ABSENT, {"backend": "full"}, r"graphwright\[tensorrt\]"),
        (None, Package("1"), ABSENT, {"sm": "90"}, "No engine can be built here for SM90"),
    ],
)
def test_an_engine_that_was_asked_for_and_cannot_be_built_is_an_error(
    machine: dict[str, object],
    gpu: Gpu | None,
    rtx: Package,
    full: Package,
    settings: dict[str, str],
    message: str,
) -> None:
    machine.update(gpu=gpu, rtx=rtx, full=full)
    with pytest.raises(Exception, match=message):
        choose(settings_from_text(settings))


def test_the_gpu_is_read_from_nvidia_smi() -> None:
    assert gpu_from_csv("NVIDIA H100 80GB, HBM3, 9.0, 570.10\nL4, 8.9, 570.10\n") == Gpu(
        "NVIDIA H100 80GB, HBM3", 90, "570.10"
    )
    assert gpu_from_csv("No devices were found\n") is None
    assert gpu_from_csv("") is None


def test_a_failing_nvidia_smi_is_no_gpu(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(device, "_DEVICE_FILES", ())
    device.find_gpu.cache_clear()
    try:
        assert device.find_gpu() is None
    finally:
        device.find_gpu.cache_clear()


def test_a_precision_that_no_capability_has_is_not_blamed_on_one() -> None:
    options = BuildOptions(precision="int8-dynamic", settings={"sm": "89"})
    with pytest.raises(UsageError, match="has no precision 'int8-dynamic'") as refused:
        TensorRtTarget().check(options)
    assert "int8-dynamic" not in refused.value.hint
