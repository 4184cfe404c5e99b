"""The few pieces of the protobuf wire format that streaming needs.

Format: https://protobuf.dev/programming-guides/encoding. A field is a tag, ``number << 3 | wire
type`` as varint, and its payload; a length-delimited one (wire type 2) starts with its length.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.unknown_fields import UnknownFieldSet

VARINT, FIXED64, DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)


def varint(value: int) -> bytes:
    """Return ``value`` >= 0 as a base-128 varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tag(number: int, wire_type: int) -> bytes:
    """Return the tag of field ``number``."""
    return varint(number << 3 | wire_type)


def delimited(number: int, length: int) -> bytes:
    """Return tag and length that announce ``length`` bytes of field ``number``."""
    return tag(number, DELIMITED) + varint(length)


def unknown_fields(message: Any) -> bytes:
    """Return the encoded fields of ``message`` that its descriptor does not name."""
    return b"".join(_unknown(field) for field in UnknownFieldSet(message))


def _unknown(field: Any) -> bytes:
    head = tag(field.field_number, field.wire_type)
    if field.wire_type == VARINT:
        return head + varint(field.data)
    if field.wire_type == FIXED64:
        return head + int(field.data).to_bytes(8, "little")
    if field.wire_type == FIXED32:
        return head + int(field.data).to_bytes(4, "little")
    if field.wire_type == DELIMITED:
        return head + varint(len(field.data)) + bytes(field.data)
    inner = b"".join(_unknown(f) for f in field.data)
    return head + inner + tag(field.field_number, END_GROUP)
