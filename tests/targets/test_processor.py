"""What the processor's instruction sets mean for int8."""

from __future__ import annotations

import pytest

from targets import processor
from targets.base import BuildOptions
from targets.onnxruntime.target import OnnxRuntimeTarget
from targets.openvino.target import OpenVinoTarget
from targets.processor import has_saturating_int8_products

CASES = [
    ("x86_64", ("avx2", "avx512f"), True),
    ("AMD64", (), True),
    ("x86_64", ("avx2", "avx_vnni"), False),
    ("x86_64", ("avx2", "avx512f", "avx512_vnni"), False),
    ("aarch64", ("asimddp",), False),
    ("arm64", (), False),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {'+'.join(case[1])}")
def saturates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    machine, flags, expected = request.param
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "processor_flags", lambda: flags)
    return bool(expected)


def test_only_an_x86_without_vnni_saturates(saturates: bool):
    assert has_saturating_int8_products() == saturates


@pytest.mark.parametrize("target", [OnnxRuntimeTarget(), OpenVinoTarget()], ids=lambda target: target.name)
def test_weights_have_7_bits_where_products_saturate(target, saturates: bool):
    assert target.capabilities(BuildOptions(precision="int8")).quantization.weight_bits == (7 if saturates else 8)


@pytest.mark.parametrize(
    ("target", "settings"), [(OnnxRuntimeTarget(), {"provider": "cuda"}), (OpenVinoTarget(), {"device": "GPU"})]
)
def test_other_devices_than_the_cpu_keep_8_bits(target, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "processor_flags", lambda: ())
    options = BuildOptions(precision="int8", settings=settings)
    assert target.capabilities(options).quantization.weight_bits == 8


@pytest.mark.parametrize(
    ("machine", "flags", "parts"),
    [
        ("x86_64", ("avx2",), ("without VNNI",)),
        ("x86_64", ("avx512_vnni",), ("VNNI multiplies int8",)),
        ("x86_64", ("avx512_vnni", "avx512_bf16"), ("VNNI multiplies int8", "bf16")),
        ("x86_64", ("avx512_vnni", "amx_int8"), ("AMX",)),
        ("aarch64", ("i8mm",), ("instructions of their own",)),
    ],
)
def test_the_note_says_what_int8_gains(
    machine: str, flags: tuple[str, ...], parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "processor_flags", lambda: flags)
    note = processor.low_precision_note()
    assert all(part in note for part in parts)
    assert ("bf16" in note.partition(")")[2]) is ("avx512_bf16" in flags)


def test_nothing_is_said_about_an_unknown_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processor.platform, "machine", lambda: "riscv64")
    monkeypatch.setattr(processor, "processor_flags", lambda: ())
    assert processor.low_precision_note() == ""
