"""Run a function in a process of its own, so that a native builder that crashes, hangs or prints harms nobody."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import IO, Any, NoReturn

import passes.errors
from passes.errors import Blocker, BuildFailed, GraphwrightError, ModelBlocked

_STDERR_KEPT_BYTES = 64 * 1024
_STDERR_SHOWN_LINES = 12
_STDERR_SHOWN_CHARACTERS = 2000
_PIECE_BYTES = 64 * 1024
_END_GRACE_S = 10.0
# -P keeps the working folder off sys.path; the parent's own path replaces it: the child imports what the parent would.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from targets.isolation import run_child; run_child()"
)


def run_isolated(
    function: str,
    arguments: Mapping[str, Any],
    *,
    time_limit_s: float,
    environment: Mapping[str, str] | None = None,
    memory_limit_bytes: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Any:
    """Return what `function` ("package.module:function") returns for keyword `arguments`, in a fresh process.

    Arguments and result travel as JSON. The child's process group is killed at the end, whatever the end is: a result,
    the time limit, an error, Ctrl-C or the parent's death. `on_progress` gets each text that the function gives to
    `report_progress`. `memory_limit_bytes` bounds the child's address space.

    Raises BuildFailed for a crash, for the time limit, for a result that is not JSON, and for an exception that is not
    ours; a GraphwrightError comes back as its own class.
    """
    request = {
        "function": function,
        "arguments": dict(arguments),
        "memory_limit_bytes": memory_limit_bytes,
        "parent": os.getpid(),
    }
    run = _Run(function, time_limit_s, memory_limit_bytes, on_progress or (lambda text: None))
    with tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(request).encode())
        stdin.seek(0)
        with _child(stdin, environment or {}) as process:
            reply = run.reply_of(process)
    if "result" in reply:
        return reply["result"]
    raise _error_from_reply(reply["error"], run)


def report_progress(text: str) -> None:
    """Send `text` to the `on_progress` of the parent's `run_isolated`; does nothing outside an isolated function."""
    if _channel is not None:
        _send(_channel, {"progress": text})


@contextlib.contextmanager
def _child(stdin: IO[bytes], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    search_path = json.dumps([entry or os.getcwd() for entry in sys.path])  # noqa: PTH109
    process = subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-c", _BOOTSTRAP, search_path],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
        bufsize=0,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@dataclass(slots=True)
class _Run:
    """The parent's side of one run: reads the reply channel and stderr until the reply, the end or the time limit."""

    function: str
    time_limit_s: float
    memory_limit_bytes: int | None
    on_progress: Callable[[str], None]
    pending: bytes = b""
    stderr: bytearray = field(default_factory=bytearray)

    def reply_of(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        deadline = time.monotonic() + self.time_limit_s
        with selectors.DefaultSelector() as selector:
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                os.set_blocking(stream.fileno(), False)
                selector.register(stream, selectors.EVENT_READ)
            while process.stdout in {key.fileobj for key in selector.get_map().values()}:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready or time.monotonic() > deadline:
                    raise self.failure(
                        f"ran past its time limit of {self.time_limit_s:g} s and was stopped",
                        hint="Give it more time, or build something smaller.",
                    )
                for key, _ in ready:
                    piece = os.read(key.fd, _PIECE_BYTES)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is process.stderr:
                        self.keep(piece)
                    elif (reply := self.reply_from(piece)) is not None:
                        return reply
        raise self.crash(process)

    def keep(self, piece: bytes) -> None:
        self.stderr += piece
        del self.stderr[:-_STDERR_KEPT_BYTES]

    def reply_from(self, piece: bytes) -> dict[str, Any] | None:
        *lines, self.pending = (self.pending + piece).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "progress" not in message:
                return message
            self.on_progress(message["progress"])
        return None

    def crash(self, process: subprocess.Popen[bytes]) -> BuildFailed:
        try:
            code = process.wait(timeout=_END_GRACE_S)
        except subprocess.TimeoutExpired:
            return self.failure("closed its channel without a result and did not end")
        with contextlib.suppress(OSError):  # what the dying process wrote last; EAGAIN if a grandchild holds the pipe
            while process.stderr is not None and (piece := os.read(process.stderr.fileno(), _PIECE_BYTES)):
                self.keep(piece)
        if code >= 0:
            return self.failure(f"ended with exit code {code} and no result")
        hint = "The system may have run out of memory." if -code == signal.SIGKILL else ""
        return self.failure(f"crashed with {_signal_name(-code)}", hint=hint)

    def failure(self, what: str, *, hint: str = "") -> BuildFailed:
        limit = f" It ran under a memory limit of {self.memory_limit_bytes} bytes." if self.memory_limit_bytes else ""
        lines = self.stderr.decode(errors="replace").strip().splitlines()[-_STDERR_SHOWN_LINES:]
        tail = "\n".join(lines)[-_STDERR_SHOWN_CHARACTERS:]
        said = f"\nIts last words:\n{tail}" if tail else ""
        return BuildFailed(f"{self.function} {what}.{limit}{said}", hint=hint)


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({signal.strsignal(number)})"
    except ValueError:
        return f"signal {number}"


def _error_from_reply(error: Mapping[str, Any], run: _Run) -> GraphwrightError:
    kind = getattr(passes.errors, error["class"]) if error["class"] else None
    if kind is None:
        return run.failure(error["message"])
    if kind is ModelBlocked:
        blockers = [Blocker(**fields) for fields in error["blockers"]]
        return ModelBlocked(error["target"], blockers, hint=error["hint"])
    rebuilt: GraphwrightError = kind(error["message"], hint=error["hint"])
    return rebuilt


# The child's side.

_channel: int | None = None


def run_child() -> NoReturn:
    """Serve the one request on stdin and end the process without running native libraries' exit code."""
    global _channel
    # Replies go to a private copy of stdout; what anyone prints, Python or native code, goes to stderr.
    _channel = os.dup(1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.read())
    _die_with(request["parent"])
    if request["memory_limit_bytes"] is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (request["memory_limit_bytes"],) * 2)
    try:
        module, _, name = request["function"].partition(":")
        result = getattr(importlib.import_module(module), name)(**request["arguments"])
        reply = _reply_from_result(result)
    except BaseException as error:  # every way to fail, SystemExit included, is the parent's to report
        reply = {"error": _fields_from_error(error)}
    sys.stdout.flush()
    sys.stderr.flush()
    _send(_channel, reply)
    os._exit(0)


def _reply_from_result(result: Any) -> dict[str, Any]:
    reply = {"result": result}
    try:
        json.dumps(reply)
    except (TypeError, ValueError) as error:
        return {"error": {"class": "", "message": f"returned a result that is not JSON: {error}", "hint": ""}}
    return reply


def _send(channel: int, message: Mapping[str, Any]) -> None:
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[os.write(channel, left) :]


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when the parent is gone, however it went."""
    if sys.platform != "linux":
        return
    import ctypes

    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call took effect
        os._exit(1)


def _fields_from_error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, GraphwrightError):
        known = next(kind for kind in type(error).__mro__ if getattr(passes.errors, kind.__name__, None) is kind)
        fields: dict[str, Any] = {"class": known.__name__, "message": error.message, "hint": error.hint}
        if isinstance(error, ModelBlocked):
            fields |= {"target": error.target, "blockers": [asdict(blocker) for blocker in error.blockers]}
        return fields
    frames = traceback.extract_tb(error.__traceback__)
    place = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return {"class": "", "message": f"raised {type(error).__name__}: {error}{place}", "hint": ""}
