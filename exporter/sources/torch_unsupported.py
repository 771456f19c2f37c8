"""The operators of a torch module that the ONNX exporter has no translation for, all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.sources.torch_quiet import source_line
from passes.errors import Blocker

if TYPE_CHECKING:
    from exporter.sources.torch_strategies import Subject


def unsupported_operators(subject: Subject, error: BaseException) -> tuple[Blocker, ...]:
    """Return one Blocker per node without a translation; empty when `error` has another cause.

    torch names only the first such node, so the exported program is asked about every node, by torch's own registry.
    """
    if not _is_about_translation(error):
        return ()
    import torch

    for program in subject.programs.values():
        found = []
        for node in _decomposed(program).graph.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                reason = _missing(node)
                if reason:
                    line = source_line(node.meta.get("stack_trace") or "")
                    found.append(Blocker(node.name, str(node.target), reason, line))
        if found:
            return tuple(found)
    return ()


def _is_about_translation(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ in ("DispatchError", "UnsupportedOperatorError"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _decomposed(program: Any) -> Any:
    """Return the program as the exporter sees it: operators that it lacks are first taken apart."""
    from torch.onnx._internal.exporter import _core, _registration

    try:
        registry = _registration.ONNXRegistry.from_torchlib()
        return _core._prepare_exported_program_for_export(program, registry=registry)
    except Exception:  # torch's internals moved: its own graph still names the operators
        return program


def _missing(node: Any) -> str:
    """Return why the node has no translation; "" when it has one."""
    from torch.onnx._internal.exporter import _dispatching, _registration

    function, message = _dispatching.dispatch(node, _registration.ONNXRegistry.from_torchlib())
    return "" if function is not None else f"no ONNX translation ({message})"
