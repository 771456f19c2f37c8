"""Where a node came from in the user's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

SOURCE_LINE_KEY = "graphwright.source_line"


def source_line(node: ir.Node) -> str:
    """Return "file.py:61" as the source recorded it at tracing, or the empty string."""
    return node.metadata_props.get(SOURCE_LINE_KEY, "")
