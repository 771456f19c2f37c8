"""The operators of a torch module that the ONNX exporter has no translation for, all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exporter.sources.torch_quiet import quiet, source_line
from passes.errors import Blocker

if TYPE_CHECKING:
    from exporter.sources.torch_strategies import Subject


def unsupported_operators(subject: Subject, error: BaseException) -> tuple[Blocker, ...]:
    """Return one Blocker per node without a translation; empty when `error` has another cause.

    torch names only the first such node, so the exported program is asked about every node, by torch's own registry.
    """
    if not _is_about_translation(error):
        return ()
    with quiet():
        return _untranslated(next(iter(subject.programs.values()), None))


def _untranslated(program: Any) -> tuple[Blocker, ...]:
    import torch
    from torch.onnx._internal.exporter import _core, _dispatching, _registration

    if program is None:
        return ()
    registry = _registration.ONNXRegistry.from_torchlib()
    # As the exporter sees it: operators that it has no translation for are first taken apart.
    program = _core._prepare_exported_program_for_export(program, registry=registry)
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            function, message = _dispatching.dispatch(node, registry)
            if function is None:
                line = source_line(node.meta.get("stack_trace") or "")
                found.append(Blocker(node.name, str(node.target), f"no ONNX translation ({message})", line))
    return tuple(found)


def _is_about_translation(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__name__ in ("DispatchError", "UnsupportedOperatorError"):
            return True
        error = error.__cause__ or error.__context__
    return False
