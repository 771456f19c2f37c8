"""An output folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from exporter.artifacts import built_folders, is_build_manifest
from passes.errors import GraphwrightError, UsageError

_FREE_BYTES_OF_A_FULL_DISK = 1 << 20
_UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.ENAMETOOLONG}
)
MADE_FILES = ("model.onnx", "model.onnx.data", "report.html", "report.json", "junit.xml")
MARKER = "manifest.json"
"""A folder that holds this file, written by a build, may be replaced by the next build."""


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder next to `out` that takes its place when the block ends well, and is removed otherwise.

    Ctrl-C and SIGTERM count as ending badly. Raises UsageError when `out` is a file, a folder that no build made, or
    lies where nothing can be written; and for a disk that fills up on the way.
    """
    _check_replaceable(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise _unwritable(out, error.strerror or str(error)) from error
    interrupts: list[int] = []
    try:
        with _interrupts(interrupts):
            yield staging
            if interrupts:  # some library caught the KeyboardInterrupt; the user still meant it
                raise KeyboardInterrupt
            staging.chmod(0o777 & ~_umask())
            _swap(staging, out)
    except GraphwrightError as error:
        if interrupts:  # an import that was cut short reads like a broken package
            raise KeyboardInterrupt from error
        raise
    except Exception as error:
        if interrupts:
            raise KeyboardInterrupt from error
        # A runtime's own writer reports a full disk in its own way, so the disk is asked as well.
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise _unwritable(out, error.strerror or str(error)) from error
        if shutil.disk_usage(staging).free < _FREE_BYTES_OF_A_FULL_DISK:
            raise _unwritable(out, f"the disk is full ({error})") from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UsageError(f"The output {out} is not a folder.", hint="Choose another -o.")
    if out.is_mount() or out.resolve() == Path.cwd():
        raise UsageError(
            f"The output folder {out} cannot be replaced as a whole: it is a mount point or the working folder.",
            hint=f"Name a folder inside it: -o {out / 'out'}",
        )
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not is_build_manifest(out / MARKER):
        raise UsageError(
            f"The output folder {out} is not empty and was not made by graphwright.",
            hint="Choose another -o, or empty the folder yourself.",
        )
    ours = {MARKER, *MADE_FILES, *(Path(name).parts[0] for name in built_folders(out / MARKER))}
    strangers = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if strangers:
        raise UsageError(
            f"The output folder {out} holds what graphwright did not make: {', '.join(strangers[:5])}.",
            hint="A build replaces its folder as a whole: move that away, or choose another -o.",
        )


def _swap(staging: Path, out: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    out.rename(old / out.name)
    try:
        staging.rename(out)
    except BaseException:
        (old / out.name).rename(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _unwritable(out: Path, reason: str) -> UsageError:
    return UsageError(
        f"The output folder {out} cannot be written: {reason}.",
        hint="Choose a folder that you may write to, on a disk with free space.",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _interrupts(came: list[int]) -> Iterator[None]:
    """Turn SIGTERM, like SIGINT, into KeyboardInterrupt inside the block, and append those that come to `came`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        came.append(signum)
        raise KeyboardInterrupt

    previous = {sign: signal.signal(sign, interrupt) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for sign, handler in previous.items():
            signal.signal(sign, handler)
