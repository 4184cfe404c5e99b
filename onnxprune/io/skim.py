"""Parse a model file without its weights: they are found by walking the protobuf wire format.

A tensor's ``raw_data`` can be most of a file. :func:`skim` copies everything else and puts a short
*token* where each large ``raw_data`` was; what a token stands for is a place in the file. Messages
too small to hold large data are not looked into, so the walk costs next to nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx

from onnxprune.io import wire

Buffer: TypeAlias = Any
"""What slices to bytes: bytes or an ``mmap.mmap``."""

_RAW = "raw"


class MalformedError(ValueError):
    """The bytes are not what the walk understands; an ordinary parse will say what is wrong."""


@dataclass(frozen=True)
class Span:
    """Bytes ``offset`` to ``offset + length`` of the file."""

    offset: int
    length: int


@dataclass(frozen=True)
class Skimmed:
    """A serialized model with tokens for its large data.

    Attributes:
        data: the message.
        spans: what each token stands for. Tokens are random: no weight equals one.
    """

    data: bytes
    spans: Mapping[bytes, Span]


def _numbers(message: Any, **fields: str) -> dict[int, str]:
    by_name = message.DESCRIPTOR.fields_by_name
    return {by_name[name].number: kind for name, kind in fields.items() if name in by_name}


# Which fields of which message lead to dense tensors. Sparse tensors are always parsed.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": _numbers(onnx.ModelProto, graph="graph", functions="function"),
    "graph": _numbers(onnx.GraphProto, node="node", initializer="tensor"),
    "function": _numbers(onnx.FunctionProto, node="node"),
    "node": _numbers(onnx.NodeProto, attribute="attribute"),
    "attribute": _numbers(
        onnx.AttributeProto, t="tensor", tensors="tensor", g="graph", graphs="graph"
    ),
    "tensor": _numbers(onnx.TensorProto, raw_data=_RAW),
}


def skim(data: Buffer, large: int) -> Skimmed:
    """Return the ModelProto in ``data``, a token in the place of each ``raw_data`` >= ``large``.

    Raises:
        MalformedError: cut off, or of a form no ONNX writer uses.
    """
    walk = _Walk(data, large)
    return Skimmed(walk.message("model", 0, len(data)), walk.spans)


class _Walk:
    def __init__(self, data: Buffer, large: int) -> None:
        self.data = data
        self.large = large
        self.secret = secrets.token_bytes(16)
        self.spans: dict[bytes, Span] = {}

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at ``at`` and where it ends."""
        value = shift = 0
        while at < end and shift < 70:
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise MalformedError("a number does not end")

    def message(self, kind: str, start: int, end: int) -> bytes:
        """Return the message of ``kind`` at ``start`` to ``end``, tokens in place."""
        inside = _INSIDE[kind]
        pieces: list[bytes] = []
        copied = at = start
        while at < end:
            field = at
            tag, at = self.varint(at, end)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == wire.DELIMITED:
                length, body = self.varint(at, end)
                at = body + length
                if length >= self.large and number in inside and at <= end:
                    inner = self._inner(inside[number], body, at)
                    pieces += self.data[copied:field], wire.delimited(number, len(inner)), inner
                    copied = at
            elif wire_type == wire.VARINT:
                _, at = self.varint(at, end)
            elif wire_type == wire.FIXED64:
                at += 8
            elif wire_type == wire.FIXED32:
                at += 4
            else:
                raise MalformedError("a group, which ONNX has none of")
        if at != end:
            raise MalformedError("a field reaches beyond its message")
        pieces.append(self.data[copied:end])
        return b"".join(pieces)

    def _inner(self, kind: str, start: int, end: int) -> bytes:
        if kind != _RAW:
            return self.message(kind, start, end)
        token = self.secret + len(self.spans).to_bytes(8, "little")
        self.spans[token] = Span(start, end - start)
        return token
