from __future__ import annotations

import subprocess
import sys

import pytest


def _run(code: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_sympy_stays_out_until_a_dimension_is_computed_with_and_is_then_the_real_one() -> None:
    _run(
        """
import sys
from passes.deferred_sympy import import_onnx_ir
import_onnx_ir()
import onnx_ir as ir
assert "sympy" not in sys.modules
shape = ir.Shape(["n", "max(n, 2)", 3])
assert "sympy" not in sys.modules
assert str((shape[0] + 1).value) == "n + 1"
assert (shape[1] * 2).evaluate({"n": 1}) == 4
import sympy
assert sympy.Symbol("x") + 1 == sympy.sympify("x + 1") and hasattr(sympy, "__path__")
assert ir.SymbolicDim(sympy.Symbol("k") * 2).value == "2*k"
"""
    )


def test_a_submodule_of_sympy_can_be_the_first_that_the_process_asks_for() -> None:
    _run(
        """
from passes.deferred_sympy import import_onnx_ir
import_onnx_ir()
from sympy.core.symbol import Symbol
import sympy
assert sympy.Symbol is Symbol
"""
    )


def test_nothing_is_replaced_where_sympy_is_loaded_already() -> None:
    _run(
        """
import sympy
from passes.deferred_sympy import import_onnx_ir
import_onnx_ir()
import sys
assert sys.modules["sympy"] is sympy and "onnx_ir" not in sys.modules
"""
    )


@pytest.mark.parametrize("module", ["sympy", "torch", "openvino", "jax", "onnxscript", "psutil", "onnxruntime"])
def test_optimize_loads_only_what_it_uses(tmp_path: object, module: str) -> None:
    _run(
        f"""
import sys
from pathlib import Path
import onnx.parser, onnx
folder = Path({str(tmp_path)!r})
model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float[n] x) => (float[n] y)'
                                '{{ a = Identity (x) y = Relu (a) }}')
onnx.save(model, folder / "m.onnx")
from exporter import optimize
optimize(folder / "m.onnx", folder / "o.onnx")
assert {module!r} not in sys.modules
"""
    )
