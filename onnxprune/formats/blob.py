"""The container of one packed tensor: header, section table, checksum.

Byte by byte in docs/formats.md, section 1; this module is its reference implementation. Nothing
here depends on a format beyond its number; :func:`parse` checks everything that can be checked
without knowing the format, and allocates nothing that the blob's own length does not bound.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from onnxprune.errors import LoadError, UnsupportedError
from onnxprune.formats.bits import DTYPES, Array
from onnxprune.formats.view import View

MAGIC = b"OPSW"
VERSION = 1
MAX_RANK = 16
MAX_COUNT = 1 << 48
"""Limit of every count: elements, slots, bytes."""

_FIXED = struct.Struct("<4sIHBBBBBBQQQ4IQ")
assert _FIXED.size == 64  # the documented size of the fixed part


@dataclass(frozen=True)
class Header:
    """What a blob says about its tensor; field meanings as in docs/formats.md."""

    format: int
    dtype: int
    dims: tuple[int, ...]
    view: View
    nnz: int
    stored: int
    params: tuple[int, int, int, int]
    total: int = 0

    @property
    def rows(self) -> int:
        """Rows of the matrix view."""
        return self.view.shape(self.dims)[0]

    @property
    def cols(self) -> int:
        """Columns of the matrix view."""
        return self.view.shape(self.dims)[1]

    @property
    def numel(self) -> int:
        """Number of elements of the dense tensor."""
        return math.prod(self.dims)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy_dtype.itemsize

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The tensor's element type."""
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor."""
        return self.numel * self.itemsize


def refuse(reason: str) -> NoReturn:
    """Raise the one error for a blob that is not what it must be."""
    raise LoadError(
        f"packed weight refused: {reason}. The model file is damaged or was written by another "
        "version; write it again with `onnxprune convert`"
    )


def header_size(rank: int, sections: int) -> int:
    """Return where the first section of a blob starts, in bytes."""
    return _FIXED.size + 8 * rank + align8(rank) + 16 * sections


def align8(size: int) -> int:
    """Round up to a multiple of 8."""
    return -(-size // 8) * 8


def blob_size(rank: int, lengths: Sequence[int]) -> int:
    """Return the bytes of a whole blob whose sections have these lengths."""
    return _layout(rank, lengths)[1]


def _layout(rank: int, lengths: Sequence[int]) -> tuple[list[int], int]:
    """Return each section's offset, and the total length."""
    offsets: list[int] = []
    end = header_size(rank, len(lengths))
    for length in lengths:
        offsets.append(align8(end))
        end = offsets[-1] + length
    return offsets, end


def build(header: Header, sections: Sequence[Array]) -> bytes:
    """Return the blob for ``header`` (its ``total`` is ignored) and the sections' arrays.

    Raises:
        UnsupportedError: the tensor is beyond the container's limits (rank 16, 2**48 elements).
    """
    rank = len(header.dims)
    lengths = [section.nbytes for section in sections]
    offsets, total = _layout(rank, lengths)
    padded = math.prod(max(dim, 1) for dim in header.dims)
    if rank > MAX_RANK or max(padded, header.stored, total) > MAX_COUNT:
        raise UnsupportedError(
            f"a tensor of shape {list(header.dims)} is too large to be packed "
            f"(at most {MAX_RANK} axes and 2**48 elements); leave it dense"
        )
    blob = bytearray(total)
    _FIXED.pack_into(
        blob, 0, MAGIC, 0, VERSION, header.format, header.dtype, rank, header.view.split,
        len(sections), 0, total, header.nnz, header.stored, *header.params,
        header_size(rank, len(sections)),
    )  # fmt: skip
    struct.pack_into(f"<{rank}Q", blob, 64, *header.dims)
    at = 64 + 8 * rank
    blob[at : at + rank] = bytes(header.view.perm)
    at += align8(rank)
    for index, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        struct.pack_into("<QQ", blob, at + 16 * index, offset, length)
    target = np.frombuffer(blob, np.uint8)
    for offset, section in zip(offsets, sections, strict=True):
        raw = np.ascontiguousarray(section).reshape(-1).view(np.uint8)
        target[offset : offset + raw.size] = raw
    struct.pack_into("<I", blob, 4, zlib.crc32(memoryview(blob)[8:]))
    return bytes(blob)


def parse(blob: bytes | bytearray | memoryview) -> tuple[Header, list[memoryview]]:
    """Check a blob's container and return its header and its sections (views, not copies).

    Raises:
        LoadError: anything in it is not as docs/formats.md demands.
    """
    data = memoryview(blob).cast("B")
    if len(data) < _FIXED.size:
        refuse(f"{len(data)} bytes are shorter than the fixed header of {_FIXED.size}")
    fields = _FIXED.unpack_from(data)
    magic, crc, version, number, dtype, rank, split, count, reserved = fields[:9]
    total, nnz, stored, *params, start = fields[9:]
    if magic != MAGIC:
        refuse(f"it starts with {magic!r} instead of {MAGIC!r}")
    if version != VERSION:
        refuse(f"format version {version} is unknown (this build reads version {VERSION})")
    if total != len(data):
        refuse(f"it says {total} bytes but has {len(data)}")
    if zlib.crc32(data[8:]) != crc:
        refuse("its checksum does not match")
    if dtype not in DTYPES:
        refuse(f"element type {dtype} is unknown")
    if rank > MAX_RANK or split > rank or reserved:
        refuse(f"rank {rank}, split {split}, reserved {reserved} are out of range")
    if start != header_size(rank, count) or start > total:
        refuse(f"the header says it ends at {start}, not where it must")
    dims = struct.unpack_from(f"<{rank}Q", data, 64)
    if math.prod(max(dim, 1) for dim in dims) > MAX_COUNT or stored > MAX_COUNT:
        refuse(f"shape {list(dims)} with {stored} slots is too large")
    at = 64 + 8 * rank
    perm = tuple(data[at : at + rank])
    if sorted(perm) != list(range(rank)) or any(data[at + rank : at + align8(rank)]):
        refuse(f"axis order {list(perm)} is not a permutation")
    if nnz > stored or nnz > math.prod(dims):
        refuse(f"{nnz} non-zeros do not fit {stored} slots and shape {list(dims)}")
    header = Header(
        number, dtype, dims, View(perm, split), nnz, stored, (*params,), total
    )  # fmt: skip
    return header, _sections(data, at + align8(rank), count, start)


def _sections(data: memoryview, table: int, count: int, start: int) -> list[memoryview]:
    """Check the section table against the one layout it may have."""
    result: list[memoryview] = []
    end = start
    for index in range(count):
        offset, length = struct.unpack_from("<QQ", data, table + 16 * index)
        if offset != align8(end) or length > len(data) - offset:
            refuse(f"section {index} ({length} bytes at {offset}) is not where it must be")
        if any(data[end:offset]):
            refuse(f"the padding before section {index} is not zero")
        end = offset + length
        result.append(data[offset:end])
    if end != len(data):
        refuse(f"{len(data) - end} bytes follow the last section")
    return result
