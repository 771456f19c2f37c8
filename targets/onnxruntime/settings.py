"""The options of `--target onnxruntime:...`, and the session options that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targets.settings import Setting, settings_from_table

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
TABLE = {
    "provider": Setting("cpu", tuple(PROVIDERS), "the execution provider that runs every node"),
    "optimization": Setting("all", tuple(LEVELS), "the runtime's own graph optimization level at load"),
    "spinning": Setting("off", ("on", "off"), "whether idle threads spin: faster, at others' cost"),
    "accuracy_level": Setting("0", ("0", "1", "4"), "products of integer weights: 0, 1 exact, 4 rounds inputs to int8"),
    "operators": Setting("fastest", ("fastest", "fewest"), "fuse what runs no slower so, or to the fewest nodes"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked settings: keys of PROVIDERS and LEVELS, whether idle threads spin, and what fusion shall save.

    accuracy_level: what products of integer weights may round their input to.
    """

    provider: str
    optimization: str
    spinning: bool
    operators: str = "fastest"
    accuracy_level: int = 0


def settings_from_text(given: Mapping[str, str]) -> Settings:
    """Return the checked settings; raises UsageError for an unknown name or value."""
    chosen = settings_from_table("onnxruntime", given, TABLE)
    return Settings(
        chosen["provider"],
        chosen["optimization"],
        chosen["spinning"] == "on",
        chosen["operators"],
        int(chosen["accuracy_level"]),
    )


def session_options(settings: Settings, *, threads: int) -> Any:
    """Return onnxruntime.SessionOptions that fix all that changes results or speed.

    Nodes run one after another on `threads` threads. A provider other than the CPU's may not leave nodes to the CPU.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[settings.optimization])
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and reported by whoever catches them
    spin = "1" if settings.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spin)
    options.add_session_config_entry("session.inter_op.allow_spinning", spin)
    if settings.provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def provider_is_here(settings: Settings) -> bool:
    """Return whether the installed ONNX Runtime has the chosen execution provider."""
    import onnxruntime

    return PROVIDERS[settings.provider] in onnxruntime.get_available_providers()
