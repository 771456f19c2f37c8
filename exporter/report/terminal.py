"""The report on a terminal: stages, one table of artifacts, what failed, what was not run, the verdict."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from exporter.evaluation.fallbacks import fallback_texts
from exporter.report.search import print_search
from exporter.report.summary import (
    ArtifactRow,
    StageRow,
    artifact_name,
    artifact_row,
    executed_text,
    failures,
    headline,
    omissions,
    speed_text,
    stage_row,
    timed_shapes,
)
from exporter.report.wording import UNKNOWN, bytes_text, milliseconds_text, printable, seconds_text
from exporter.results import BuildReport, PipelineReport, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PLAIN_WIDTH = 160
"""Columns assumed where the output is no terminal: wide enough for no cell to be cut."""

NARROW = 124
"""Below this many columns the artifacts are listed one under the other instead of in a table."""

STYLES = {
    Verdict.PASSED: "bold green",
    Verdict.FAILED: "bold red",
    Verdict.NOT_RUN: "bold yellow",
    Verdict.WAIVED: "bold cyan",
}


def print_report(report: BuildReport, *, stream: TextIO | None = None, width: int | None = None) -> None:
    """Print the report to `stream`, standard output by default; plain text without colours where it is no terminal."""
    from rich.console import Console

    stream = stream if stream is not None else sys.stdout
    if width is None and not stream.isatty():
        width = PLAIN_WIDTH
    _print(report, Console(file=stream, width=width, highlight=False, emoji=False, markup=False, soft_wrap=False))


def _print(report: BuildReport, console: Console) -> None:
    from rich.text import Text

    console.print()
    console.print(Text(printable(report.source), style="bold"))
    for pipeline in report.pipelines:
        console.print(Text(_pipeline_text(pipeline), style="dim"))
    if report.stages:
        _print_stages([stage_row(stage) for stage in report.stages], console)
    if report.baselines:
        for comparison in report.baselines:
            text = speed_text(comparison, with_shape=len(timed_shapes(report)) > 1)
            console.print(Text.assemble((f"{printable(comparison.candidate.label)}: ", "bold"), text))
    if report.artifacts:
        _print_artifacts([artifact_row(artifact, report) for artifact in report.artifacts], console)
    for artifact in report.artifacts:
        if text := executed_text(artifact):
            console.print(Text(f"{artifact_name(artifact)}: {text}", style="dim"))
            for reason in fallback_texts(artifact.details["executed"]):
                console.print(Text(f"  {printable(reason)}", style="dim"))
        if artifact.search is not None:
            print_search(artifact.search, artifact_name(artifact), console)
    _print_setting(report, console)
    for finding in report.findings:
        console.print(Text.assemble((f"{finding.kind.upper()}  ", STYLES[Verdict.NOT_RUN]), printable(finding.summary)))
        for reason in finding.reasons:
            console.print(Text(f"  {printable(reason)}"))
        console.print(Text(f"  {printable(finding.advice)}"))
    failed = failures(report)
    for index, text in enumerate(failed):
        console.print(Text.assemble(("FAILED  ", STYLES[Verdict.FAILED]), (text, "red" if index == 0 else "")))
    for omission in omissions(report):
        console.print(
            Text.assemble(
                (f"{omission.verdict.value.upper()}  ", STYLES[omission.verdict]), f"{omission.what}: {omission.reason}"
            )
        )
    for note in report.notes:
        console.print(Text(f"note: {printable(note)}", style="dim"))
    console.print(Text(f"{report.verdict.value}: {headline(report)}", style=STYLES[report.verdict]))
    if report.out:
        console.print(Text(f"{printable(report.out)}", style="dim"))


def _print_stages(rows: list[StageRow], console: Console) -> None:
    columns: dict[str, Callable[[StageRow], str]] = {
        "stage": lambda row: row.name,
        "precision": lambda row: row.precision,
        "SQNR": lambda row: row.sqnr,
        "worst sample": lambda row: row.worst_sample,
        "cosine": lambda row: row.cosine,
        "max error": lambda row: row.max_abs,
        "top-1": lambda row: row.top1,
    }
    if console.width < NARROW:
        del columns["worst sample"], columns["max error"], columns["precision"]
    table = _table("Accuracy against the original, stage by stage")
    for name in columns:
        table.add_column(
            name,
            justify="left" if name in ("stage", "precision") else "right",
            no_wrap=name != "stage",
            overflow="fold",
        )
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        table.add_row(
            *_cells(*(read(row) for read in columns.values())),
            _verdict(row.verdict),
            style="red" if row.verdict is Verdict.FAILED else "",
        )
    console.print(table)


def _print_artifacts(rows: list[ArtifactRow], console: Console) -> None:
    if console.width < NARROW:
        _list_artifacts(rows, console)
        return
    table = _table("Artifacts")
    for name in ("artifact", "SQNR", "cosine", "top-1"):
        table.add_column(name, justify="left" if name == "artifact" else "right", no_wrap=name != "artifact")
    table.add_column("speed (95% interval)", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        speed = "\n".join(row.speed) if row.speed else UNKNOWN
        table.add_row(
            *_cells(row.name, row.sqnr, row.cosine, row.top1, speed, row.size),
            _verdict(row.verdict),
            style="red" if row.verdict is Verdict.FAILED else "",
        )
    console.print(table)


def _list_artifacts(rows: list[ArtifactRow], console: Console) -> None:
    from rich.text import Text

    console.print(Text("\nArtifacts", style="bold"))
    for row in rows:
        console.print(Text.assemble((row.name, "bold"), "  ", _verdict(row.verdict)))
        figures = [("SQNR", row.sqnr), ("cosine", row.cosine), ("top-1", row.top1), ("size", row.size)]
        measured = [f"{name} {value}" for name, value in figures if value != UNKNOWN]
        for line in (", ".join(measured), *row.speed):
            if line:
                console.print(Text(f"  {line}"))


def _print_setting(report: BuildReport, console: Console) -> None:
    """Print what the figures were measured on: input shape, threads, samples, size, time."""
    from rich.text import Text

    speeds = [*report.baselines, *(speed for artifact in report.artifacts for speed in artifact.speed)]
    parts = []
    for shapes in timed_shapes(report):
        first = next(speed for speed in speeds if speed.input_shapes == shapes)
        parts.append(
            f"speed at {printable(shapes)}: {first.threads} thread(s), {first.baseline.runs} interleaved rounds, "
            f"{printable(first.baseline.label)} takes {milliseconds_text(first.baseline.median_ms)}"
        )
    if report.model_size_bytes:
        parts.append(f"fp32 model {bytes_text(report.model_size_bytes)}")
    if "total" in report.seconds:
        parts.append(f"took {seconds_text(report.seconds['total'])}")
    for part in parts:
        console.print(Text(part, style="dim"))


def _pipeline_text(pipeline: PipelineReport) -> str:
    applied = sum(row.applied for row in pipeline.statistics)
    refused = sum(row.refused for row in pipeline.statistics)
    return (
        f"{printable(pipeline.stage)}: {pipeline.nodes_before} -> {pipeline.nodes_after} nodes, {applied} rewrites, "
        f"{refused} refused, {seconds_text(pipeline.seconds)}"
    )


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, pad_edge=False, padding=(0, 1))


def _cells(*texts: str) -> tuple[Text, ...]:
    from rich.text import Text

    return tuple(Text(text) for text in texts)


def _verdict(verdict: Verdict) -> Text:
    from rich.text import Text

    return Text(verdict.value, style=STYLES[verdict])
