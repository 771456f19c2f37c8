"""A TensorRT builder, network and parser that live and die together, and what their logger was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CHARACTERS_KEPT = 600


@dataclass(frozen=True, slots=True)
class Session:
    """`trt` is the imported module, tensorrt or tensorrt_rtx; `messages` holds the errors logged so far."""

    trt: Any
    logger: Any
    builder: Any
    network: Any
    parser: Any
    messages: list[str]


def open_session(trt: Any) -> Session:
    """Return an empty network with a parser that fills it. TensorRT 11 networks are always strongly typed."""
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    return Session(trt, logger, builder, network, trt.OnnxParser(network, logger), messages)


def _logger(trt: Any, messages: list[str]) -> Any:
    """Return a logger that keeps errors as data; the class is made here since its base comes from the module."""
    errors = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

    def log(self: Any, severity: Any, text: str) -> None:
        if severity in errors:
            messages.append(text.strip()[:_CHARACTERS_KEPT])

    def initialize(self: Any) -> None:
        trt.ILogger.__init__(self)

    return type("ErrorKeeper", (trt.ILogger,), {"__init__": initialize, "log": log})()
