"""Where a model comes from: one source a file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.user_code import is_function_location
from passes.errors import UsageError

if TYPE_CHECKING:
    from exporter.sources.base import Feeds, Source

__all__ = ["FORMS", "open_source"]

FORMS = """\
A source is one of:
  model.onnx                  an ONNX file
  path/to/file.py:function    a function that builds a torch module
  package.module:function     the same, in an importable module"""


def open_source(location: str, *, samples: Iterable[Feeds] | None = None) -> Source:
    """Return the source that `location` names: "model.onnx", "file.py:function" or "package.module:function".

    samples: inputs known besides; they stand in for sample inputs that the source lacks, and show which dimensions
    vary, and the rank of an input where the file leaves it open. Raises UsageError for any other form.
    """
    if is_function_location(location):
        from exporter.sources.torch_module import open_torch

        return open_torch(location, samples=samples)
    if location.endswith(".onnx"):
        from exporter.sources.onnx_file import open_onnx_file

        return open_onnx_file(location, samples=samples)
    raise UsageError(f"'{location}' {_what_is_wrong(location)}.", hint=FORMS)


def _what_is_wrong(location: str) -> str:
    path = Path(location)
    if location.endswith(".py"):
        return "names a file but no function in it"
    if path.suffix in (".pt", ".pth", ".bin", ".safetensors"):
        return "holds weights without the code of their module; write a function that builds it and loads them"
    if path.is_dir():
        return "is a folder"
    return "is no form of source that is known"
