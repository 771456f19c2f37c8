"""Pipeline text to a pipeline: `fold-constants{max_bytes=4096},repeat(eliminate-dead-code,fuse-gelu)`.

A list is written `keep=[conv_1,conv_2]`; signs that mean something here go into its entries as %2C and the like.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from urllib.parse import unquote

from passes.base import Pass, option_text
from passes.errors import UsageError
from passes.pipeline import Pipeline, Repeat, Step

_EXAMPLE = "For example: 'fold-constants{max_bytes=4096},repeat{rounds=4}(fold-shapes,remove-identities),fuse-gelu'"

_TOKEN = re.compile(r"\s*(?:(?P<name>[a-z][a-z0-9-]*)(?P<options>\{[^{}]*\})?|(?P<sign>[(),]))")
_OPTION = re.compile(r"(?:\[[^\[\]]*\]|[^,])+")  # up to a comma that stands in no list


def pipeline_from_text(text: str, passes: Mapping[str, type[Pass]] | None = None) -> Pipeline:
    """Return the pipeline that `text` spells.

    `passes` maps names to pass classes; None takes all that graphwright has. Raises UsageError with the position, and
    near matches for a name that is unknown.
    """
    if passes is None:
        from passes.catalogue import PASSES

        passes = PASSES
    reader = _Reader(text, passes)
    steps = reader.steps(nested=False)
    return Pipeline(tuple(steps))


class _Reader:
    def __init__(self, text: str, passes: Mapping[str, type[Pass]]) -> None:
        self.text = text
        self.passes = passes
        self.position = 0

    def steps(self, *, nested: bool) -> list[Step]:
        found: list[Step] = []
        if not nested and not self.text.strip():
            return found
        while True:
            found.append(self.step(nested=nested))
            sign = self.sign()
            if sign == ",":
                continue
            if sign == (")" if nested else ""):
                return found
            raise self.error("expected ',' or ')'" if nested else "expected ',' or the end")

    def step(self, *, nested: bool) -> Step:
        match = _TOKEN.match(self.text, self.position)
        if match is None or not match["name"]:
            raise self.error("expected the name of a pass")
        self.position = match.end()
        name, options = match["name"], _split_options(match["options"])
        if name == "repeat":
            if nested:
                raise self.error("repeat inside repeat")
            return self.repeat(options)
        if name not in self.passes:
            near = difflib.get_close_matches(name, self.passes, n=3, cutoff=0.5)
            hint = f"Did you mean {', '.join(near)}?" if near else f"Passes: {', '.join(sorted(self.passes))}"
            raise UsageError(f"There is no pass '{name}'.", hint=hint)
        return pass_from_options(self.passes[name], options)

    def repeat(self, options: dict[str, str]) -> Repeat:
        rounds = options.pop("rounds", "8")
        if options or not rounds.isdigit() or int(rounds) < 1:
            raise self.error("repeat takes one option, rounds, a positive integer")
        if self.sign() != "(":
            raise self.error("expected '(' after repeat")
        inner = tuple(step for step in self.steps(nested=True) if isinstance(step, Pass))
        return Repeat(inner, rounds=int(rounds))

    def sign(self) -> str:
        if not self.text[self.position :].strip():
            return ""
        match = _TOKEN.match(self.text, self.position)
        if match is None or not match["sign"]:
            raise self.error("unexpected text")
        self.position = match.end()
        return match["sign"]

    def error(self, what: str) -> UsageError:
        rest = self.text[self.position :][:40]
        found = f"'{rest}'" if rest else "the text ends there"
        return UsageError(f"Pipeline text: {what} at character {self.position}: {found}", hint=_EXAMPLE)


def _split_options(braced: str | None) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in _OPTION.findall((braced or "").strip("{}")):
        if not item.strip():
            continue
        key, equals, value = item.partition("=")
        if not equals or key.strip() in options:
            raise UsageError(
                f"Pipeline text: an option is written once, as name=value; got '{item.strip()}'.", hint=_EXAMPLE
            )
        options[key.strip()] = value.strip()
    return options


def pass_from_options(kind: type[Pass], options: Mapping[str, str]) -> Pass:
    """Return the pass with its dataclass fields set from text; raises UsageError for an unknown or unfit option."""
    hints = typing.get_type_hints(kind)
    known = {option.name for option in fields(kind)}
    values: dict[str, object] = {}
    for key, text in options.items():
        if key not in known:
            has = f"It has {', '.join(sorted(known))}." if known else "It has no options."
            raise UsageError(f"The pass '{kind.name}' has no option '{key}'.", hint=has)
        try:
            values[key] = _value_from_text(text, hints[key])
        except ValueError as error:
            raise UsageError(f"The option {key} of '{kind.name}': {error}", hint=_options_hint(kind)) from error
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"The pass '{kind.name}': {error}", hint=_options_hint(kind)) from error


def _options_hint(kind: type[Pass]) -> str:
    defaults = ",".join(f"{option.name}={option_text(option.default)}" for option in fields(kind))
    return f"By default it is {kind.name}{{{defaults}}}."


def _value_from_text(text: str, hint: object) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text == "None" and type(None) in arguments:
            return None
        return _value_from_text(text, next(kind for kind in arguments if kind is not type(None)))
    if origin is typing.Literal:
        if text not in arguments:
            raise ValueError(f"'{text}' is not one of {', '.join(map(str, arguments))}")
        return text
    if origin is tuple:
        if not (text.startswith("[") and text.endswith("]")):
            raise ValueError(f"'{text}' is not a list such as [first,second]")
        return tuple(unquote(entry.strip()) for entry in text[1:-1].split(",") if entry.strip())
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(f"'{text}' is neither true nor false")
        return text == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"'{text}' is not a number of type {getattr(hint, '__name__', hint)}") from None
    return text
