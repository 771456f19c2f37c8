"""report.schema.json, derived from the result types, and a check of a document against it.

`python -m exporter.report.schema` prints the schema; a test holds the shipped file to it.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, IntEnum
from typing import Any

from exporter.report.json import SCHEMA_VERSION
from exporter.results import BuildReport

Schema = dict[str, Any]

_SCALARS: Mapping[object, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity", "NaN"]}]},
    type(None): {"type": "null"},
}


def derive_schema() -> Schema:
    """Return the JSON Schema of a report, from the dataclasses' fields and docstrings."""
    definitions: dict[str, Schema] = {}
    root = _of_dataclass(BuildReport, definitions)
    root["properties"] = {"schema_version": {"const": SCHEMA_VERSION}, **root["properties"]}
    root["required"] = ["schema_version", *root["required"]]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "graphwright report",
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _of(kind: Any, definitions: dict[str, Schema]) -> Schema:
    if kind is Any:
        return {}
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    if is_dataclass(kind):
        name = getattr(kind, "__name__", str(kind))
        if name not in definitions:
            definitions[name] = {}
            definitions[name] = _of_dataclass(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        typed = "integer" if issubclass(kind, IntEnum) else "string"
        meaning = ", ".join(f"{member.value}: {member.name}" for member in kind) if typed == "integer" else ""
        described = {"description": meaning} if meaning else {}
        return {"type": typed, "enum": [member.value for member in kind], **described}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    raise AssertionError(f"no schema for {kind}")


def _of_dataclass(kind: Any, definitions: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind)
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": {entry.name: _of(hints[entry.name], definitions) for entry in fields(kind)},
        "required": [entry.name for entry in fields(kind)],
        "additionalProperties": False,
    }


def violations(document: object, schema: Schema) -> list[str]:
    """Return where `document` breaks `schema`, as "path: what"; empty when it is valid.

    Knows the keywords that `derive_schema` uses; another one is an AssertionError, never skipped.
    """
    return _violations(document, schema, schema, "$")


_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_KNOWN = frozenset({"$schema", "title", "description", "$defs", "$ref", "type", "enum", "const", "anyOf"}) | {
    *("items", "properties", "required", "additionalProperties")
}


def _violations(value: Any, schema: Schema, root: Schema, path: str) -> list[str]:
    unknown = schema.keys() - _KNOWN
    if unknown:
        raise AssertionError(f"the schema uses {sorted(unknown)}, which this check does not know")
    if "$ref" in schema:
        return _violations(value, root["$defs"][schema["$ref"].rpartition("/")[2]], root, path)
    if "anyOf" in schema:
        if any(not _violations(value, option, root, path) for option in schema["anyOf"]):
            return []
        return [f"{path}: {value!r} is none of what is allowed"]
    if "const" in schema and value != schema["const"]:
        return [f"{path}: {value!r} is not {schema['const']!r}"]
    if "enum" in schema and (value not in schema["enum"] or isinstance(value, bool)):
        return [f"{path}: {value!r} is none of {schema['enum']}"]
    expected = schema.get("type")
    if expected is not None:
        is_wrong_bool = isinstance(value, bool) and expected != "boolean"
        if is_wrong_bool or not isinstance(value, _JSON_TYPES[expected]):
            return [f"{path}: {type(value).__name__} where {expected} is expected"]
    if isinstance(value, list) and "items" in schema:
        return [
            found
            for index, item in enumerate(value)
            for found in _violations(item, schema["items"], root, f"{path}[{index}]")
        ]
    return _object_violations(value, schema, root, path) if isinstance(value, dict) else []


def _object_violations(value: dict[str, Any], schema: Schema, root: Schema, path: str) -> list[str]:
    found = [f"{path}: '{name}' is missing" for name in schema.get("required", ()) if name not in value]
    properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, item in value.items():
        where = f"{path}.{name}"
        if name in properties:
            found.extend(_violations(item, properties[name], root, where))
        elif others is False:
            found.append(f"{where}: unknown")
        elif isinstance(others, dict):
            found.extend(_violations(item, others, root, where))
    return found


def schema_text() -> str:
    """Return the text of report.schema.json."""
    return json.dumps(derive_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
