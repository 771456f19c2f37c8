"""The `graphwright` group: commands are imported on call, and every failure becomes its documented exit code."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

import exporter
from passes.errors import ExitCode, GraphwrightError

INTERRUPTED = 130
"""128 + SIGINT, as a shell reports it."""

PIPE_CLOSED = 141
"""128 + SIGPIPE: the reader of our output went away, as `| head` does; what was built is complete."""

_UNWRITABLE = {
    errno.ENOSPC: "Free disk space.",
    errno.EDQUOT: "Free disk space, or raise the quota.",
    errno.EROFS: "Choose a folder on a file system that can be written.",
}

_COMMANDS = {
    "build": "Trace, optimize, quantize, lower and verify a model.",
    "optimize": "Rewrite an ONNX file by passes.",
    "verify": "Check built artifacts against the original.",
    "bench": "Time built artifacts, side by side with the original.",
    "sensitivity": "Show what each operator costs in accuracy when it alone is int8.",
    "inspect": "Show what a model or an artifact holds, and whether a target takes it.",
    "localize": "Find the single rewrite that breaks a graph.",
    "doctor": "Show which targets can build and run on this machine.",
}


class _LazyGroup(click.Group):
    """A group whose commands live in modules of the same name; their one-line help is here, so listing imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"exporter.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in _COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, _COMMANDS, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            ctx.fail(f"There is no command '{name}'.{hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _termination_as_interrupt():
                return super().invoke(ctx)
        except GraphwrightError as error:
            _report_error(error.message, error.hint, error.exit_code)
            ctx.exit(int(error.exit_code))
        except KeyboardInterrupt:
            click.echo("Interrupted; nothing was left half-written.", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except BrokenPipeError:
            _silence_stdout()
            ctx.exit(PIPE_CLOSED)
        except SystemExit as error:
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            ctx.exit(PIPE_CLOSED)  # rich's Console turns a closed pipe into exit code 1
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _UNWRITABLE:
                if error.errno == errno.ENOSPC:
                    _silence_stdout()
                where = f" ({error.filename})" if error.filename else ""
                message = f"The output cannot be written: {error.strerror}{where}."
                _report_error(message, _UNWRITABLE[error.errno], ExitCode.USAGE)
                ctx.exit(int(ExitCode.USAGE))
            traceback.print_exc()
            _report_error(
                f"Internal error: {type(error).__name__}: {error}",
                "This is a defect of graphwright; please report it with the lines above.",
                ExitCode.INTERNAL,
            )
            ctx.exit(int(ExitCode.INTERNAL))


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, with what it had half-written removed."""
    is_default = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if not is_default:
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _silence_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(message: str, hint: str, code: ExitCode) -> None:
    if "--json" in sys.argv:
        click.echo(json.dumps({"error": {"message": message, "hint": hint}, "exit_code": int(code)}, indent=2))
    click.secho(f"error: {message}", fg="red", err=True)
    if hint:
        click.echo(f"  fix: {hint}", err=True)


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=(
        "Exit codes: 0 all gates passed, 1 internal error, 2 wrong usage, 3 accuracy gate failed, 4 speed or size gate "
        "failed, 5 model blocked, 6 a requested target could not run here, 130 interrupted, 141 output pipe closed. "
        "The worst one wins, in the order 1, 2, 3, 5, 4, 6."
    ),
)
@click.version_option(exporter.__version__, prog_name="graphwright")
def main() -> None:
    """Turn a trained model into deployable artifacts that are proved against the original."""
