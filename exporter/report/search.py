"""A search on a terminal: why the winner won, every candidate in a table, the operators kept out of int8."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from exporter.report.pareto import trial_rows
from exporter.report.wording import cosine_text, decibel_text, printable, seconds_text, share_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from exporter.layer_sensitivity import SensitivityReport
    from exporter.search.findings import LayerSensitivity, SearchReport

PLAIN_WIDTH = 160
"""Columns assumed where the output is no terminal."""

MOST_KEPT = 12
"""Kept operators that are listed; the reports in files have all."""


def print_search(search: SearchReport, name: str, console: Console) -> None:
    """Print how the precision of the artifact `name` was chosen."""
    from rich.text import Text

    table = _table(
        f"{name}: candidates, the fastest first", ("candidate", search.objective, "SQNR", "latency", "size", "")
    )
    for row in trial_rows(search):
        cells = (row.name, row.accuracy, row.sqnr, row.latency, row.size, row.remark)
        style = "bold green" if row.remark.startswith("chosen") else ""
        table.add_row(*map(Text, cells), style=style)
    console.print(table)
    console.print(Text(f"{name}: {printable(search.why)}"))
    for layer in search.kept[:MOST_KEPT]:
        console.print(
            Text(f"  kept: {printable(layer.name)} ({layer.op_type}): {printable(layer.reason)}", style="dim")
        )
    if len(search.kept) > MOST_KEPT:
        console.print(Text(f"  and {len(search.kept) - MOST_KEPT} more, in the report", style="dim"))
    for note in search.notes:
        console.print(Text(f"note: {printable(note)}", style="dim"))


def print_sensitivity(report: SensitivityReport) -> None:
    """Print the operators, the most sensitive first, and those that stay in float anyway."""
    from rich.console import Console
    from rich.text import Text

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
    console.print(sensitivity_table(report.layers))
    for event in report.refused:
        console.print(Text(f"float: {printable(event.node)}: {printable(event.reason)}", style="dim"))
    console.print(
        Text(
            f"{report.target}: {len(report.layers)} int8 operators, {report.samples} samples run, "
            f"{report.calibration_samples} others calibrated, {seconds_text(report.seconds)}",
            style="dim",
        )
    )


def sensitivity_table(layers: Sequence[LayerSensitivity]) -> Table:
    """Return the operators, the most sensitive first."""
    from rich.text import Text

    table = _table(
        "Alone in int8, the outputs against the float graph",
        ("operator", "type", "SQNR", "cosine", "top-1", "share of the work"),
    )
    for layer in sorted(layers, key=lambda layer: layer.sqnr_db):
        cells = (
            printable(layer.name),
            layer.op_type,
            decibel_text(layer.sqnr_db),
            cosine_text(layer.cosine),
            share_text(layer.top1_agreement),
            f"{layer.share:.1%}",
        )
        table.add_row(*map(Text, cells))
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))
    for name in columns:
        is_text = name in ("candidate", "operator", "type", "latency", "")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    return table
