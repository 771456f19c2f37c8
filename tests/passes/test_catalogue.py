"""Passes by name: each entry leads to a pass of that name, and is imported when it is asked for, not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from passes.base import Pass
from passes.catalogue import PASSES, Catalogue, default_pipeline
from passes.fusion.fuse_gelu import FuseGelu

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(PASSES))
def test_every_entry_leads_to_a_pass_of_its_name(name: str) -> None:
    assert issubclass(PASSES[name], Pass)
    assert PASSES[name].name == name


def test_names_are_in_order() -> None:
    assert list(PASSES) == sorted(PASSES)


def test_a_pass_is_put_in_and_taken_out() -> None:
    table = Catalogue({})
    table["other-name"] = FuseGelu
    assert table["other-name"] is FuseGelu
    del table["other-name"]
    assert "other-name" not in table
    assert len(table) == 0


def test_a_name_without_a_pass_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        PASSES["fuse-everything"]


def test_default_pipeline_imports_no_pass_of_a_target_nor_of_quantization() -> None:
    code = (
        "import sys, passes.catalogue as c; c.default_pipeline();"
        "print([m for m in sys.modules if m.startswith(('passes.legalize.', 'passes.quantize.', 'passes.precision.'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
    assert default_pipeline().steps
