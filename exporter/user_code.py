"""Functions of the user, "path/to/file.py:function" or "package.module:function", loaded without shadowing anything."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from passes.errors import GraphwrightError, UsageError

_ALIAS = "_graphwright_user_"
_FORMS = "Write 'path/to/file.py:function' or 'package.module:function'."


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A function of the user, `location` as they wrote it, `file` where it stands (None for a module without one)."""

    location: str
    function: Callable[..., Any]
    file: Path | None

    def __call__(self, *arguments: Any) -> Any:
        """Return what the function returns; its prints go to stderr. Raises UsageError when it raises."""
        with user_code(self.location, self.file):
            return self.function(*arguments)


def is_function_location(text: str) -> bool:
    """Return whether `text` has the form of a function's location, whatever exists."""
    place, colon, name = text.rpartition(":")
    if not (colon and place and name.isidentifier()):
        return False
    return place.endswith(".py") or all(part.isidentifier() for part in place.split("."))


def load_function(location: str) -> UserFunction:
    """Return the function at `location`.

    A file is imported under a private alias, and its folder is put last on sys.path for its own imports, so that a
    user's `types.py` or `passes/` hides nothing. Raises UsageError for a missing file, module or function, and for a
    module that raises while it is imported.
    """
    if not is_function_location(location):
        raise UsageError(f"'{location}' does not name a function.", hint=_FORMS)
    place, _, name = location.rpartition(":")
    module = _module_from_file(Path(place), location) if place.endswith(".py") else _module_by_name(place, location)
    function = getattr(module, name, None)
    if function is None:
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        near = difflib.get_close_matches(name, offered, n=3) or offered[:8]
        listed = f"It has: {', '.join(near)}." if near else "It defines no functions."
        raise UsageError(f"{place} has no function '{name}'.", hint=listed)
    if not callable(function):
        raise UsageError(f"{location} is a {type(function).__name__}, not a function.", hint="Name a function instead.")
    file = getattr(module, "__file__", None)
    return UserFunction(location, function, Path(file) if file else None)


@contextlib.contextmanager
def user_code(location: str, file: Path | None) -> Iterator[None]:
    """Run the user's code inside: prints go to stderr, an exception becomes a UsageError that names their line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except GraphwrightError:
        raise
    except SystemExit as error:
        raise UsageError(f"{location} called sys.exit({error.code}).", hint="Return a value instead.") from error
    except Exception as error:
        raise UsageError(f"{location} raised {_said(error)}", hint=_fix(error, file)) from error


def origin_of(error: BaseException, file: Path | None) -> str:
    """Return "file.py:12, in build", the user's innermost frame where `file` is theirs, else the innermost of all."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = traceback.extract_tb(_outside_of_here(error.__traceback__))
    if not frames:
        return file.name if file else "an unknown line"
    own = [frame for frame in frames if file is not None and _is_same(frame.filename, file)]
    frame = (own or frames)[-1]
    said = f": {frame.line}" if frame.line else ""
    return f"{Path(frame.filename).name}:{frame.lineno}, in {frame.name}{said}"


def _module_from_file(path: Path, location: str) -> ModuleType:
    file = path.expanduser().resolve()
    if not file.is_file():
        near = difflib.get_close_matches(path.name, _siblings(file), n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else "Check the path; it is read relative to this folder."
        raise UsageError(f"There is no file {path}.", hint=hint)
    alias = f"{_ALIAS}{hashlib.sha256(str(file).encode()).hexdigest()[:12]}_{file.stem}"
    if alias in sys.modules:
        return sys.modules[alias]
    spec = importlib.util.spec_from_file_location(alias, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported as Python.", hint=_FORMS)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[alias] = module
    try:
        with _importing(location, file):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[alias]
        raise
    return module


def _module_by_name(name: str, location: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        with _importing(location, None):
            return importlib.import_module(name)
    except UsageError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise UsageError(
                f"There is no module '{missing}' (for '{location}').",
                hint=f"Install it, or run where it lies. {_FORMS}",
            ) from error.__cause__
        raise


@contextlib.contextmanager
def _importing(location: str, file: Path | None) -> Iterator[None]:
    place = location.rpartition(":")[0]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        hint = 'Put what runs as a script under `if __name__ == "__main__":`.'
        raise UsageError(f"{place} called sys.exit({error.code}) while it was imported.", hint=hint) from error
    except Exception as error:
        raise UsageError(f"{place} raised {_said(error)} while it was imported.", hint=_fix(error, file)) from error


def _fix(error: Exception, file: Path | None) -> str:
    origin = origin_of(error, file)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"Install what provides '{error.name}'; it is imported at {origin}."
    return f"Raised at {origin}; mend it there."


def _said(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _outside_of_here(tb: TracebackType | None) -> TracebackType | None:
    """Return the traceback without this file's and the import system's leading frames."""
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        if name != __file__ and not name.startswith("<frozen importlib") and Path(name).name != "contextlib.py":
            return tb
        tb = tb.tb_next
    return None


def _is_same(filename: str, file: Path) -> bool:
    return Path(filename).resolve() == file.resolve() if not filename.startswith("<") else False


def _siblings(file: Path) -> list[str]:
    return [path.name for path in file.parent.glob("*.py")] if file.parent.is_dir() else []
