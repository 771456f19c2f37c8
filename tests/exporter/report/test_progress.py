from __future__ import annotations

import io
import re

import pytest

from exporter.report.progress import LineProgress, LiveProgress, SilentProgress, make_progress


def stream(tty):
    made = io.StringIO()
    made.isatty = lambda: tty
    return made


def run(progress):
    with progress:
        progress.stage("trace")
        progress.stage("verify trace", 3)
        for _ in range(3):
            progress.advance()
        progress.done()
        progress.done()
        progress.stage("lower \x1b[31m")


def test_a_pipe_gets_one_line_a_stage():
    out = stream(tty=False)
    progress = make_progress(stream=out)
    assert isinstance(progress, LineProgress)
    run(progress)
    shown = [re.sub(r"\d+ ms", "T", line) for line in out.getvalue().splitlines()]
    assert shown == ["trace (T)", "verify trace (T, 3 steps)", "lower \\x1b[31m (T)"]


def test_a_terminal_gets_bars_and_keeps_finished_stages():
    out = stream(tty=True)
    progress = make_progress(stream=out)
    assert isinstance(progress, LiveProgress)
    run(progress)
    text = out.getvalue()
    for name in ("trace", "verify trace", "lower \\x1b[31m"):
        assert f"• {name}" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_quiet_says_nothing(capsys):
    progress = make_progress(quiet=True)
    assert isinstance(progress, SilentProgress)
    run(progress)
    assert capsys.readouterr() == ("", "")


def test_standard_error_is_the_default(capsys):
    run(make_progress())
    out, err = capsys.readouterr()
    assert out == ""
    assert "verify trace" in err


@pytest.mark.parametrize("tty", [False, True])
def test_a_stage_that_was_broken_off_is_not_told_as_done(tty):
    out = stream(tty)

    def broken_off():
        with make_progress(stream=out) as progress:
            progress.stage("trace")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert "trace (" not in out.getvalue()
    assert "• trace" not in out.getvalue()
