from __future__ import annotations

import contextlib
import errno
import os
import signal
from pathlib import Path

import pytest

from exporter.staging import MARKER, staged_folder
from passes.errors import MissingDependency, UsageError

BUILD = '{{"kind": "graphwright-build", "source": "{}"}}'


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as staging:
        (staging / MARKER).write_text("{}")
        assert not out.exists()
    assert names(out) == [MARKER]
    assert names(out.parent) == ["out"]


@pytest.mark.parametrize("stop", [RuntimeError("defect"), KeyboardInterrupt(), SystemExit(3)])
def test_a_failure_leaves_nothing(tmp_path: Path, stop: BaseException) -> None:
    with pytest.raises(type(stop)), staged_folder(tmp_path / "out") as staging:
        (staging / "half").write_text("half")
        raise stop
    assert names(tmp_path) == []


def test_a_failure_keeps_the_build_that_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out) as staging:
        (staging / MARKER).write_text(BUILD.format("old"))
    with pytest.raises(RuntimeError), staged_folder(out) as staging:
        (staging / MARKER).write_text(BUILD.format("new"))
        raise RuntimeError
    assert "old" in (out / MARKER).read_text()
    assert names(tmp_path) == ["out"]


def test_a_build_is_replaced_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for text in ("old", "new"):
        with staged_folder(out) as staging:
            (staging / MARKER).write_text(BUILD.format(text))
            (staging / "model.onnx").write_text(text)
    assert names(out) == sorted([MARKER, "model.onnx"])
    assert (out / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_stranger_s_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="not empty"), staged_folder(tmp_path):
        pass
    assert names(tmp_path) == ["thesis.tex"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="not a folder"), staged_folder(tmp_path / "out"):
        pass
    with pytest.raises(UsageError, match="cannot be written"), staged_folder(tmp_path / "out" / "inner"):
        pass


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No space left"), staged_folder(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert names(tmp_path) == []


def test_an_unrelated_os_error_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged_folder(tmp_path / "out"):
        raise FileNotFoundError(errno.ENOENT, "a file of the user's")


def test_sigterm_cleans_up(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert names(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_folder_with_another_tool_s_manifest_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / MARKER).write_text('{"name": "a web app"}')
    with pytest.raises(UsageError, match="not made by graphwright"), staged_folder(tmp_path / "site"):
        pass
    assert names(tmp_path / "site") == [MARKER]


def test_the_working_folder_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="working folder"), staged_folder(Path()):
        pass


def test_a_file_of_the_user_s_in_a_build_is_never_deleted(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out) as staging:
        (staging / MARKER).write_text(BUILD.format("old"))
    (out / "mine.txt").write_text("notes")
    with pytest.raises(UsageError, match=r"did not make: mine\.txt"), staged_folder(out):
        pass
    assert (out / "mine.txt").read_text() == "notes"


def test_an_interrupt_that_a_library_swallows_still_ends_the_build(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out"), contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert names(tmp_path) == []


def test_an_interrupt_that_a_library_turns_into_an_error_is_told_as_an_interrupt(tmp_path: Path) -> None:
    def cut_short() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise MissingDependency("The source needs 'runtime'.", hint="runtime is installed but broken") from error

    with pytest.raises(KeyboardInterrupt), staged_folder(tmp_path / "out"):
        cut_short()
    assert names(tmp_path) == []
