"""onnx_ir without sympy, whose import takes longer than optimizing most graphs does."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


class _Deferred(ModuleType):
    """What onnx_ir holds for sympy: the real one from the first use on; during its import, functions that call it."""

    is_importing = True

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.is_importing:
            return _later(name)
        return getattr(importlib.import_module("sympy"), name)


def _later(name: str) -> Callable[..., object]:
    return lambda *arguments: getattr(importlib.import_module("sympy"), name)(*arguments)


def import_onnx_ir() -> None:
    """Import onnx_ir so that it loads sympy when it first computes with a dimension, as our passes never do.

    Only onnx_ir sees the stand-in: for the rest of the process sympy is what it was. Nothing happens where either
    package has been imported before.
    """
    if "onnx_ir" in sys.modules or "sympy" in sys.modules:
        return
    stand_in = _Deferred("sympy")
    sys.modules["sympy"] = stand_in
    try:
        importlib.import_module("onnx_ir")
    finally:
        stand_in.is_importing = False
        if sys.modules.get("sympy") is stand_in:
            del sys.modules["sympy"]
