"""What every command prints: results on stdout (a table or JSON), progress and errors on stderr."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from exporter.report.progress import Progress
    from exporter.results import BuildReport

Command = TypeVar("Command", bound=Callable[..., Any])


def json_option(command: Command) -> Command:
    """Add `--json` to a command, as its parameter `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")(command)


@dataclass(frozen=True, slots=True)
class Output:
    """Where a command's result goes."""

    as_json: bool

    def progress(self) -> Progress:
        """Return the progress display: live on a terminal, a line per stage otherwise, silent with --json."""
        from exporter.report.progress import make_progress

        return make_progress(quiet=self.as_json)

    def report(self, report: BuildReport) -> None:
        """Print a report as a table, or as the JSON of report.json."""
        if self.as_json:
            from exporter.report.json import report_to_text

            click.echo(report_to_text(report))
        else:
            from exporter.report.terminal import print_report

            print_report(report)

    def data(self, data: Any, text: Callable[[], None]) -> None:
        """Print `data` as JSON, or call `text` to print it for a person."""
        if self.as_json:
            import json

            click.echo(json.dumps(data, indent=2, ensure_ascii=False))
        else:
            text()
