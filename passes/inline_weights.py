"""Weights that lie inside a model file, referred to in place so that they need not be read.

Walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding) over a mapping of the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

LEAST_BYTES = 65536
"""Weights from this size on are left where they are."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_EXTERNAL = 1

# By message, the fields that hold messages in which a weight may lie (onnx.proto).
_CHILDREN = {
    "ModelProto": {7: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
}


class _Malformed(Exception):
    """The bytes are not protobuf."""


class _Field(NamedTuple):
    """A field's number and wire type, and where its tag, its content and what follows begin."""

    number: int
    wire_type: int
    tag: int
    start: int
    end: int


def without_inline_weights(path: Path) -> bytes | None:
    """Return the model file with each large weight as external data that lies in the file itself.

    None where the file holds no large weight, or is not well-formed: then it is to be read as it is.
    """
    if path.stat().st_size < LEAST_BYTES:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        walk = _Walk(mapped, path.name.encode())
        try:
            parts = walk.message("ModelProto", 0, len(mapped))
        except _Malformed:
            return None
        return b"".join(parts) if walk.found else None


@dataclass(slots=True)
class _Walk:
    data: mmap.mmap
    location: bytes
    found: int = 0

    def message(self, kind: str, start: int, end: int) -> list[bytes]:
        """Return the message in pieces, rewritten."""
        if kind == "TensorProto":
            return self.tensor(start, end)
        children = _CHILDREN[kind]
        parts: list[bytes] = []
        kept = start  # what lies from here on is copied as it is
        for part in _fields(self.data, start, end):
            inner_kind = children.get(part.number)
            if inner_kind is None or part.wire_type != _BYTES or part.end - part.start < LEAST_BYTES:
                continue
            inner = self.message(inner_kind, part.start, part.end)
            parts += [self.data[kept : part.tag], *_delimited(part.number, inner)]
            kept = part.end
        parts.append(self.data[kept:end])
        return parts

    def tensor(self, start: int, end: int) -> list[bytes]:
        parts = list(_fields(self.data, start, end))
        raw = [part for part in parts if part.number == _RAW_DATA and part.wire_type == _BYTES]
        is_plain = len(raw) == 1 and not any(part.number in (_EXTERNAL_DATA, _DATA_LOCATION) for part in parts)
        if not is_plain or raw[0].end - raw[0].start < LEAST_BYTES:
            return [self.data[start:end]]
        self.found += 1
        (weight,) = raw
        entries = (
            (b"location", self.location),
            (b"offset", str(weight.start).encode()),
            (b"length", str(weight.end - weight.start).encode()),
        )
        reference = [_entry(key, value) for key, value in entries]
        stated = _varint(_DATA_LOCATION << 3 | _VARINT) + _varint(_EXTERNAL)
        return [self.data[start : weight.tag], *reference, stated, self.data[weight.end : end]]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        tag = at
        key, at = _read_varint(data, at, end)
        number, wire_type = key >> 3, key & 7
        start = at
        if wire_type == _VARINT:
            _, at = _read_varint(data, at, end)
        elif wire_type == _BYTES:
            length, start = _read_varint(data, at, end)
            at = start + length
        elif wire_type in (_FIXED32, _FIXED64):
            at += 4 if wire_type == _FIXED32 else 8
        else:
            raise _Malformed
        if number == 0 or at > end:
            raise _Malformed
        yield _Field(number, wire_type, tag, start, at)


def _read_varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the number at `at`, and where what follows it begins."""
    result = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
    raise _Malformed


def _varint(number: int) -> bytes:
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _delimited(number: int, parts: list[bytes]) -> list[bytes]:
    length = sum(len(part) for part in parts)
    return [_varint(number << 3 | _BYTES) + _varint(length), *parts]


def _entry(key: bytes, value: bytes) -> bytes:
    """Return a StringStringEntryProto as field `external_data`."""
    pair = b"".join([*_delimited(1, [key]), *_delimited(2, [value])])
    return b"".join(_delimited(_EXTERNAL_DATA, [pair]))
