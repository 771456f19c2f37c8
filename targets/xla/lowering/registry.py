"""The operator table: which function lowers which operator, from which version of the operator set on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Function = Callable[..., Any]
STANDARD_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class Lowering:
    """One operator's lowering from the version `since` on.

    function: takes a Call, then the operator's inputs in order (None for one left out); returns its output or outputs.
    host: positions of inputs that must be known at trace time (shapes, axes, pads).
    takes_quantized: it is given Dequantized inputs as they are; others get them as floats.
    """

    op_type: str
    since: int
    domain: str
    function: Function
    host: tuple[int, ...] = ()
    takes_quantized: bool = False


_TABLE: dict[tuple[str, str], dict[int, Lowering]] = {}
_HOST_TABLE: dict[str, Function] = {}


def lowers(
    op_type: str, *, since: int, domain: str = "", host: tuple[int, ...] = (), takes_quantized: bool = False
) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as the lowering of `op_type` from operator set `since` on.

    Raises ValueError when the same operator and version is registered twice.
    """

    def register(function: Function) -> Function:
        versions = _TABLE.setdefault((domain, op_type), {})
        if since in versions:
            raise ValueError(f"{domain or 'ai.onnx'}::{op_type} since {since} is lowered twice")
        versions[since] = Lowering(op_type, since, domain, function, host, takes_quantized)
        return function

    return register


def on_host(op_type: str) -> Callable[[Function], Function]:
    """Return a decorator that registers the evaluation of `op_type` on values known at trace time.

    The function takes a Call and numpy arrays, of dtype object where they hold symbolic dimensions. It may return
    NotImplemented: the operator is then lowered as if nothing were known.
    """

    def register(function: Function) -> Function:
        if op_type in _HOST_TABLE:
            raise ValueError(f"{op_type} is evaluated on the host twice")
        _HOST_TABLE[op_type] = function
        return function

    return register


def find_lowering(op_type: str, domain: str, opset: int) -> Lowering | None:
    """Return the newest lowering that is not newer than `opset`, or None."""
    versions = _TABLE.get(("" if domain in STANDARD_DOMAINS else domain, op_type), {})
    fitting = [since for since in versions if since <= opset]
    return versions[max(fitting)] if fitting else None


def find_host_function(op_type: str, domain: str) -> Function | None:
    """Return the host evaluation of a standard operator, or None."""
    return _HOST_TABLE.get(op_type) if domain in STANDARD_DOMAINS else None


def registered() -> Mapping[tuple[str, str], tuple[int, ...]]:
    """Return (domain, operator) -> the versions that have a lowering."""
    return {key: tuple(sorted(versions)) for key, versions in sorted(_TABLE.items())}
