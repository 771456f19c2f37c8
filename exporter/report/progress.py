"""How far a command is: live bars on a terminal, one line a stage elsewhere, nothing when asked to be quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from exporter.report.wording import printable, seconds_text

if TYPE_CHECKING:
    from rich.progress import TaskID


class Progress(Protocol):
    """What a long command tells as it goes. Stages follow each other; a new one ends the one before."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage of `total` steps, or of unknown length."""
        ...

    def advance(self, steps: int = 1) -> None:
        """Count steps of the current stage as done."""
        ...

    def done(self) -> None:
        """End the current stage; the display is put away. A later `stage` brings it back."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the display away; a stage that an exception ended is not told as done."""
        ...


class SilentProgress:
    """Says nothing."""

    def stage(self, name: str, total: int | None = None) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def done(self) -> None: ...

    def abandon(self) -> None:
        """Put the display away without telling the current stage as done."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.done()
        else:
            self.abandon()


class LineProgress(SilentProgress):
    """One line when a stage ends, with its time: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name: str | None = None
        self._steps = 0
        self._started = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        self.done()
        self._name, self._steps, self._started = name, 0, time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._steps += steps

    def done(self) -> None:
        if self._name is None:
            return
        steps = f", {self._steps} steps" if self._steps else ""
        taken = seconds_text(time.monotonic() - self._started)
        self._stream.write(f"{printable(self._name)} ({taken}{steps})\n")
        self._stream.flush()
        self._name = None

    def abandon(self) -> None:
        if self._name is not None:
            self._stream.write(f"{printable(self._name)}: not finished\n")
            self._stream.flush()
        self._name = None


class LiveProgress(SilentProgress):
    """A spinner and a bar for the current stage; finished stages stay above as lines."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._console = Console(file=stream, highlight=False)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._name = ""
        self._started = 0.0

    def stage(self, name: str, total: int | None = None) -> None:
        self._finish()
        self._name, self._started = printable(name), time.monotonic()
        self._bars.start()
        self._task = self._bars.add_task(self._name, total=total)

    def advance(self, steps: int = 1) -> None:
        if self._task is not None:
            self._bars.advance(self._task, steps)

    def done(self) -> None:
        self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is None:
            return
        from rich.text import Text

        self._bars.remove_task(self._task)
        self._task = None
        taken = seconds_text(time.monotonic() - self._started)
        self._console.print(Text.assemble(("• ", "dim"), self._name, (f"  {taken}", "dim")))

    def abandon(self) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self._bars.stop()


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Return the display that suits `stream`, standard error by default."""
    stream = stream if stream is not None else sys.stderr
    if quiet:
        return SilentProgress()
    return LiveProgress(stream) if stream.isatty() else LineProgress(stream)
