"""The xla target's own settings, as written after the colon of `--target xla:key=value`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from passes.errors import UsageError
from targets.base import PRECISIONS, BuildOptions, Precision
from targets.xla.chips import chip_of

KNOWN: dict[str, str] = {
    "topology": "compile ahead of time for a TPU, such as v5e:2x2, v4:2x2x1, v6e:2x2",
    "shapes": "symbolic (default) or fixed: the program takes any size of a named dimension, or only the usual one",
    "matmul_precision": "default, high or highest (default for fp32): how an accelerator multiplies float32",
}
_SHAPES = ("symbolic", "fixed")
_MATMUL_PRECISIONS = ("default", "high", "highest")


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, checked. topology: "" when the artifact is not compiled ahead of time."""

    precision: Precision
    topology: str
    shapes: str
    matmul_precision: str

    @property
    def float_type(self) -> np.dtype[Any]:
        """What float32 tensors are computed in."""
        import ml_dtypes

        table: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16}
        kind: np.dtype[Any] = np.dtype(table.get(self.precision, np.float32))
        return kind

    @property
    def label(self) -> str:
        chip = f"{self.topology.replace(':', '-')}-" if self.topology else ""
        fixed = "-fixed" if self.shapes == "fixed" and not self.topology else ""
        exact = "highest" if self.precision in ("fp32", "int8") else "default"
        matmul = f"-{self.matmul_precision}" if self.matmul_precision != exact else ""
        return f"{chip}{self.precision}{fixed}{matmul}"


def settings_from(options: BuildOptions) -> Settings:
    """Return the checked settings. Raises UsageError for one that is unknown or unfit, with those that are known."""
    for key in options.settings:
        if key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, n=1, cutoff=0.4)
            listed = "; ".join(f"{name}: {what}" for name, what in KNOWN.items())
            hint = f"Did you mean {near[0]}? {listed}" if near else listed
            raise UsageError(f"The xla target has no setting '{key}'.", hint=hint)
    if options.precision not in get_args(Precision):
        raise UsageError(
            f"The xla target does not know the precision '{options.precision}'.",
            hint=f"It has {', '.join(PRECISIONS)}.",
        )
    topology = options.settings.get("topology", "")
    if topology:
        chip_of(topology)
    shapes = _one_of(options, "shapes", _SHAPES, "fixed" if topology else "symbolic")
    if topology and shapes != "fixed":
        raise UsageError("A topology is compiled for fixed shapes.", hint="Leave the setting 'shapes' out.")
    exact = "highest" if options.precision in ("fp32", "int8") else "default"
    return Settings(
        options.precision, topology, shapes, _one_of(options, "matmul_precision", _MATMUL_PRECISIONS, exact)
    )


def _one_of(options: BuildOptions, key: str, allowed: tuple[str, ...], default: str) -> str:
    value = options.settings.get(key, default)
    if value not in allowed:
        raise UsageError(f"The xla target's setting {key}={value} is unknown.", hint=f"It takes {', '.join(allowed)}.")
    return value
