"""Trace, optimize, quantize, lower and verify trained models: the package that users import.

Names are resolved on first use, so that `import exporter` loads nothing heavy. No module has the name of a public
function: importing it would hide the function.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.benchmark import bench as bench
    from exporter.building import build as build
    from exporter.optimization import optimize as optimize
    from exporter.recipe import Recipe as Recipe
    from exporter.recipe import TargetRequest as TargetRequest
    from exporter.results import BuildReport as BuildReport
    from exporter.results import Verdict as Verdict
    from exporter.verification import verify as verify
    from passes.errors import ExitCode as ExitCode
    from passes.errors import GraphwrightError as GraphwrightError

__version__ = "0.1.0"

_HOMES = {
    "build": "exporter.building",
    "optimize": "exporter.optimization",
    "verify": "exporter.verification",
    "bench": "exporter.benchmark",
    "Recipe": "exporter.recipe",
    "TargetRequest": "exporter.recipe",
    "BuildReport": "exporter.results",
    "Verdict": "exporter.results",
    "ExitCode": "passes.errors",
    "GraphwrightError": "passes.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _refuse_foreign_siblings() -> None:
    """Raise ImportError when another `passes` or `targets` package stands in front of ours on sys.path."""
    home = Path(__file__).resolve().parent.parent
    for name in ("passes", "targets"):
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin != home / name / "__init__.py":
            raise ImportError(
                f"graphwright's package '{name}' is shadowed by {origin}: rename that, or run from another folder."
            )


_refuse_foreign_siblings()
