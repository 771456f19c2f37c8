"""The xla target's own settings, as written after the colon of `--target xla:key=value`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from passes.errors import UsageError
from targets.base import BuildOptions, Precision
from targets.settings import Setting, check_precision, settings_from_table
from targets.xla.chips import chip_of

TABLE: dict[str, Setting] = {
    "topology": Setting("", (), "compile ahead of time for a TPU, such as v5e:2x2, v4:2x2x1, v6e:2x2"),
    "shapes": Setting("", ("symbolic", "fixed"), "take any size of a named dimension (default), or only the usual one"),
    "matmul_precision": Setting(
        "", ("default", "high", "highest"), "how an accelerator multiplies float32; highest by default for fp32"
    ),
}


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
        """The artifact's folder name: "fp32", "int8-fixed", "v5e-2x2-bf16"."""
        chip = f"{self.topology.replace(':', '-')}-" if self.topology else ""
        fixed = "-fixed" if self.shapes == "fixed" and not self.topology else ""
        matmul = "" if self.matmul_precision == _exact(self.precision) else f"-matmul-{self.matmul_precision}"
        return f"{chip}{self.precision}{fixed}{matmul}"


def settings_from(options: BuildOptions) -> Settings:
    """Return the checked settings. Raises UsageError for one that is unknown or unfit, with those that are known."""
    chosen = settings_from_table("xla", options.settings, TABLE)
    check_precision("xla", options.precision)
    topology = chosen["topology"]
    if topology:
        chip_of(topology)
    if topology and chosen["shapes"] == "symbolic":
        raise UsageError("A topology is compiled for fixed shapes.", hint="Leave the setting 'shapes' out.")
    shapes = chosen["shapes"] or ("fixed" if topology else "symbolic")
    return Settings(options.precision, topology, shapes, chosen["matmul_precision"] or _exact(options.precision))


def _exact(precision: Precision) -> str:
    return "default" if precision in ("fp16", "bf16") else "highest"
