"""A target's own options, `--target name:key=value,...`, checked against a table of what each may be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from passes.errors import UsageError
from targets.base import PRECISIONS


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its value when not given, the values it takes (none: any), and one line on what it does."""

    default: str
    choices: tuple[str, ...] = ()
    meaning: str = ""


def settings_from_table(target: str, given: Mapping[str, str], table: Mapping[str, Setting]) -> dict[str, str]:
    """Return every setting of `table` with its given or default value.

    Raises UsageError with near matches for a name or value that the table does not have.
    """
    for key, value in given.items():
        if key not in table:
            raise UsageError(f"The target '{target}' has no setting '{key}'.", hint=_hint(key, table, "Settings"))
        choices = table[key].choices
        if choices and value not in choices:
            raise UsageError(f"The setting {key} of '{target}' is not '{value}'.", hint=_hint(value, choices, "It is"))
    return {key: given.get(key, setting.default) for key, setting in table.items()}


def label_from_settings(precision: str, chosen: Mapping[str, str], table: Mapping[str, Setting]) -> str:
    """Return the artifact's folder name: the precision, then each setting that is not at its default."""
    changed = [f"{key}-{chosen[key]}" for key, setting in table.items() if chosen[key] != setting.default]
    return "-".join([precision, *changed]).lower().replace("_", "-")


def _hint(name: str, known: Iterable[str], title: str) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}?" if near else f"{title}: {', '.join(sorted(known))}."


def check_precision(target: str, precision: str) -> None:
    """Raise UsageError for a precision that graphwright does not know. What a device lacks is a blocker, not this."""
    if precision not in PRECISIONS:
        raise UsageError(
            f"The target '{target}' has no precision '{precision}'.", hint=_hint(precision, PRECISIONS, "Precisions")
        )
