"""What searches found, kept on disk for the next run: a JSON file each, in a folder named by what it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from passes.errors import UsageError

if TYPE_CHECKING:
    from exporter.recipe import Recipe

_Found = TypeVar("_Found")


def cache_key(facts: Mapping[str, Any]) -> str:
    """Return the name of the folder that holds what was found under exactly these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


def records_folder(recipe: Recipe, facts: Mapping[str, Any]) -> tuple[Path | None, str]:
    """Return the folder for what is found under these facts, and a note: no folder where the user's cache is read-only.

    Raises UsageError when the recipe names a place that cannot be written.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = recipe.search_cache
    place = Path(base) / "graphwright" / "search" if named is None else Path(named)
    try:
        folder = place.expanduser() / cache_key(facts)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder, ""
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        if named is not None:
            raise _unwritable(place, error) from error
        return None, f"Nothing was kept for the next search: {error}. Name a place with --search-cache."


def read_record(path: Path, parse: Callable[[dict[str, Any]], _Found]) -> _Found | None:
    """Return what `parse` makes of a record; None where there is none, or one that cannot be read."""
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record whole or not at all. Raises UsageError where that cannot be, for a full disk for one."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=1)
        Path(name).replace(path)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    finally:
        Path(name).unlink(missing_ok=True)


def _unwritable(folder: Path, error: Exception) -> UsageError:
    return UsageError(
        f"The search cache {folder} cannot be written: {error}", hint="Choose another place with --search-cache."
    )
