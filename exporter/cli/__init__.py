"""The command line: one click command a file, loaded when it is called."""

from __future__ import annotations

from exporter.cli.group import main

__all__ = ["main"]
