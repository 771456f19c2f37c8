"""A builder that crashes, hangs, prints or lies does not harm the process that asked for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from passes.errors import Blocker, BuildFailed, ModelBlocked, UsageError
from targets.isolation import run_isolated

BUILDERS = """
import ctypes, os, subprocess, sys, time
from passes.errors import Blocker, ModelBlocked, UsageError
from targets.isolation import report_progress

def echo(**values):
    return values

def chatter():
    print("python says hello")
    sys.stdout.flush()
    os.write(1, b'{"result": "forged by a native print"}\\n')
    return "real"

def segfault():
    print("about to fall", file=sys.stderr)
    ctypes.string_at(0)

def hang(mark):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(mark, "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    time.sleep(60)

def leave_a_child(mark):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with open(mark, "w") as file:
        file.write(str(child.pid))
    return "done"

def spam():
    while True:
        os.write(2, b"x" * 65536 + b"\\n")

def raise_ours():
    raise UsageError("the fact", hint="the fix")

def raise_blocked():
    raise ModelBlocked("tensorrt", [Blocker("node_1", "Foo", "no kernel")], hint="expand it")

def raise_foreign():
    raise ValueError("seven is not a scale")

def not_json():
    return {1, 2}

def exit_silently():
    os._exit(7)

def ask_to_exit():
    sys.exit(4)

def variable():
    return os.environ["GRAPHWRIGHT_TEST_VARIABLE"]

def steps():
    report_progress("parse")
    report_progress("build")
    return 2

def big(characters):
    return "a" * characters

def allocate(size):
    return len(bytearray(size))
"""


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "planted_builders.py").write_text(BUILDERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(name: str, arguments: dict[str, Any] | None = None, *, time_limit_s: float = 30.0, **options: Any) -> Any:
    return run_isolated(f"planted_builders:{name}", arguments or {}, time_limit_s=time_limit_s, **options)


def is_running(pid: int) -> bool:
    """Return whether the process lives; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_all_end(pids: list[int], *, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.02)


def test_arguments_and_result_travel(builders: Path) -> None:
    values = {"text": "ä\n", "number": 1.5, "nested": {"a": [1, None, True]}}
    assert run("echo", values) == values


def test_a_result_larger_than_a_pipe_arrives(builders: Path) -> None:
    assert run("big", {"characters": 300_000}) == "a" * 300_000


def test_prints_do_not_corrupt_the_result(builders: Path) -> None:
    assert run("chatter") == "real"


def test_environment_is_added(builders: Path) -> None:
    assert run("variable", environment={"GRAPHWRIGHT_TEST_VARIABLE": "set"}) == "set"


def test_progress_arrives_in_order(builders: Path) -> None:
    seen: list[str] = []
    assert run("steps", on_progress=seen.append) == 2
    assert seen == ["parse", "build"]


def test_a_crash_names_the_signal_and_the_last_words(builders: Path) -> None:
    with pytest.raises(BuildFailed, match="SIGSEGV") as caught:
        run("segfault")
    assert "about to fall" in caught.value.message
    assert "in segfault" in caught.value.message  # faulthandler's Python stack


def test_a_silent_end_gives_its_exit_code(builders: Path) -> None:
    with pytest.raises(BuildFailed, match="exit code 7"):
        run("exit_silently")


def test_the_time_limit_kills_the_whole_group(builders: Path) -> None:
    mark = builders / "mark"
    with pytest.raises(BuildFailed, match=r"time limit of 2 s"):
        run("hang", {"mark": str(mark)}, time_limit_s=2.0)
    assert_all_end([int(pid) for pid in mark.read_text().split()])


def test_endless_output_neither_escapes_the_limit_nor_grows(builders: Path) -> None:
    started = time.monotonic()
    with pytest.raises(BuildFailed, match="time limit") as caught:
        run("spam", time_limit_s=1.0)
    assert time.monotonic() - started < 10.0
    assert len(caught.value.message) < 3000


def test_a_child_left_behind_is_killed_after_success(builders: Path) -> None:
    mark = builders / "mark"
    assert run("leave_a_child", {"mark": str(mark)}) == "done"
    assert_all_end([int(mark.read_text())])


def test_our_errors_come_back_as_themselves(builders: Path) -> None:
    with pytest.raises(UsageError) as usage:
        run("raise_ours")
    assert (usage.value.message, usage.value.hint) == ("the fact", "the fix")
    with pytest.raises(ModelBlocked) as blocked:
        run("raise_blocked")
    assert blocked.value.blockers == (Blocker("node_1", "Foo", "no kernel"),)
    assert blocked.value.hint == "expand it"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raise_foreign", r"raised ValueError: seven is not a scale \(at .*planted_builders.py:\d+\)"),
        ("ask_to_exit", "raised SystemExit: 4"),
        ("not_json", "result that is not JSON"),
        ("no_such_function", "raised AttributeError"),
    ],
)
def test_other_failures_say_what_happened(builders: Path, name: str, text: str) -> None:
    with pytest.raises(BuildFailed, match=text):
        run(name)


def test_the_memory_limit_holds(builders: Path) -> None:
    limit = 2 << 30
    assert run("allocate", {"size": 1 << 20}, memory_limit_bytes=limit) == 1 << 20
    with pytest.raises(BuildFailed, match=r"MemoryError[\s\S]*under a memory limit of 2147483648 bytes"):
        run("allocate", {"size": limit}, memory_limit_bytes=limit)


PARENT = """
import sys
sys.path[:] = {path!r}
from targets.isolation import run_isolated
run_isolated("planted_builders:hang", {{"mark": {mark!r}}}, time_limit_s=60.0)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_survives_the_parent(builders: Path, how: signal.Signals) -> None:
    mark = builders / "mark"
    code = PARENT.format(path=[entry or str(Path.cwd()) for entry in sys.path], mark=str(mark))
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 20
    while not (mark.exists() and len(mark.read_text().split()) == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    builder, grandchild = map(int, mark.read_text().split())
    parent.send_signal(how)
    _, stderr = parent.communicate(timeout=20)
    assert parent.returncode != 0
    # A parent that could run its cleanup takes the whole group along; the kernel takes the builder in any case.
    assert_all_end([builder, grandchild] if how == signal.SIGINT else [builder])
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in stderr
    elif is_running(grandchild):
        os.kill(grandchild, signal.SIGKILL)
