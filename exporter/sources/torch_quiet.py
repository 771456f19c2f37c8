"""Torch without its chatter, and the one line of an exception chain that says what was wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_ORT_NOISE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+:\d+ [^()]*\([^()]*\)\s*(const )?")
"""ONNX Runtime's error codes, and the place in its C++ code that raised."""
_LONGEST = 400

_MACHINERY = frozenset({"torch", "onnxscript", "onnx_ir", "onnx", "onnxruntime", "numpy"})
"""Packages whose lines tell a user nothing about their model."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings, logging and prints inside: what matters of it comes back as an exception's reason."""
    import torch

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    onnx_log = torch._C._jit_onnx_log  # writes to file descriptor 1, and torch leaves it switched on
    torch._C._jit_onnx_log = lambda *_: None
    nowhere = io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        torch._C._jit_onnx_log = onnx_log


def reason_of(error: BaseException | None) -> str:
    """Return the chain's last cause as "Type: first line", with the user's line where torch reported it."""
    if error is None:
        return "no reason was given"
    text = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        text = f"{error}\n{text}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    details = [line for line in lines[1:] if line.startswith("- ")][:2]
    said = " ".join([re.sub(r"\s*For more information, run with TORCH_LOGS.*", "", (lines or [""])[0]), *details])
    where = source_line(text)
    if not where and error.__traceback__ is not None:
        where = _traceback_line(error)
    said = _ORT_NOISE.sub("", said)
    reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return reason[:_LONGEST] + (f" (at {where})" if where else "")


def source_line(stack_trace: str) -> str:
    """Return "modeling_x.py:12" or "package/file.py:12", the innermost frame outside torch; "" without one."""
    frames = [(file, line) for file, line, _ in _FRAME.findall(stack_trace)]
    return next((line for line in (_shortened(file, number) for file, number in reversed(frames)) if line), "")


def _traceback_line(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    named = (_shortened(frame.filename, str(frame.lineno)) for frame in reversed(frames))
    return next((line for line in named if line), "")


def _shortened(file: str, line: str) -> str:
    """Return the file without the machine's folders; "" for torch's own files, ours, and generated code."""
    path = Path(file)
    if not path.is_absolute() or path.parent == Path(__file__).parent:
        return ""
    parts = path.parts
    if "site-packages" in parts:
        inside = parts[len(parts) - parts[::-1].index("site-packages") :]
        return "" if inside[0] in _MACHINERY else f"{'/'.join(inside)}:{line}"
    if "lib" in parts and any(part.startswith("python3") for part in parts):
        return ""
    return f"{path.name}:{line}"
