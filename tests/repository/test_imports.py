"""Every module imports alone and without warnings, and what must be light is light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("exporter", "passes", "targets")
HEAVY = (
    "torch",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "jax",
    "tensorrt",
    "tensorrt_rtx",
    "sympy",
    "rich",
)
NEVER_AT_IMPORT = ("torch", "onnxruntime", "openvino", "jax", "tensorrt", "tensorrt_rtx", "transformers")


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in found if not name.endswith("__main__")]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_there_are_modules() -> None:
    assert len(modules()) > 50


def test_every_module_imports_alone_without_warnings_or_heavy_packages() -> None:
    # One process, a fresh module table for ours each time: what another module imported does not help.
    code = f"""
import importlib, sys, warnings
import numpy, onnx, onnx_ir  # third-party warnings at import are not ours
failed = []
for name in {modules()!r}:
    for loaded in [key for key in sys.modules if key.partition('.')[0] in {PACKAGES!r}]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed.append(f"{{name}}: {{type(error).__name__}}: {{error}}")
    heavy = [key for key in {NEVER_AT_IMPORT!r} if key in sys.modules]
    if heavy:
        failed.append(f"{{name}} imports {{heavy}}")
        break
print("\\n".join(failed))
"""
    code = code.replace(
        "import numpy, onnx, onnx_ir",
        "warnings.simplefilter('ignore'); import numpy, onnx, onnx_ir; warnings.simplefilter('error')",
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "code", ["import exporter", "from exporter.cli import main; main(['--help'], standalone_mode=False)"]
)
def test_import_and_help_are_light(code: str) -> None:
    done = run(f"import sys\n{code}\nprint('loaded:', [name for name in {HEAVY!r} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("loaded: []")


@pytest.mark.parametrize("command", ["build", "optimize", "verify", "bench", "inspect", "doctor"])
def test_each_help_is_light(command: str) -> None:
    done = run(
        f"import sys\nfrom exporter.cli import main\nmain([{command!r}, '--help'], standalone_mode=False)\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert done.stdout.rstrip().endswith("loaded: []")


def test_public_names_are_what_they_say() -> None:
    exporter = importlib.import_module("exporter")
    for name in exporter.__all__:
        assert getattr(exporter, name) is not None
    for name in ("build", "optimize", "verify", "bench"):
        assert callable(getattr(exporter, name)), f"exporter.{name} is hidden by a module"
    with pytest.raises(AttributeError):
        _ = exporter.nothing_of_this_name


def test_a_shadowing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / "__init__.py").write_text("")
    done = run(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import exporter")
    assert done.returncode != 0
    assert "shadowed" in done.stderr
