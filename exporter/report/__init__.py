"""Frozen results to terminal, JSON, HTML and JUnit: the only place that formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.results import BuildReport

REPORT_FILES = ("report.html", "report.json", "junit.xml")


def write_reports(report: BuildReport, folder: Path) -> None:
    """Write report.html, report.json and junit.xml into `folder`, which is made if need be.

    Raises UsageError when the folder cannot be written.
    """
    from exporter.report.html import html_text
    from exporter.report.json import report_to_text
    from exporter.report.junit import junit_text
    from passes.errors import UsageError

    texts = dict(zip(REPORT_FILES, (html_text(report), report_to_text(report), junit_text(report)), strict=True))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f"The reports cannot be written to {folder}: {error}", hint="Choose another folder."
        ) from error
