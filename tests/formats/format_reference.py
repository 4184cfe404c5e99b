"""A second reader of the blob, written from docs/formats.md alone: slow, plain, no numpy.

It shares nothing with the package, so agreement means that the page describes the bytes.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

ITEMSIZE = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
ITEMSIZE |= {17: 1, 18: 1, 19: 1, 20: 1}


@dataclass
class Blob:
    format: int
    dtype: int
    dims: tuple[int, ...]
    perm: tuple[int, ...]
    split: int
    nnz: int
    stored: int
    params: tuple[int, ...]
    sections: list[bytes]

    @property
    def rows(self) -> int:
        return math.prod(self.dims[a] for a in self.perm[: self.split])

    @property
    def cols(self) -> int:
        return math.prod(self.dims[a] for a in self.perm[self.split :])

    def value(self, slot: int) -> bytes:
        size = ITEMSIZE[self.dtype]
        return self.sections[0][slot * size : (slot + 1) * size]


def read(data: bytes) -> Blob:
    assert data[:4] == b"OPSW"
    assert int.from_bytes(data[4:8], "little") == zlib.crc32(data[8:])
    version, number, dtype, rank, split, count, reserved = struct.unpack_from("<HBBBBBB", data, 8)
    total, nnz, stored = struct.unpack_from("<QQQ", data, 16)
    params = struct.unpack_from("<4I", data, 40)
    (start,) = struct.unpack_from("<Q", data, 56)
    assert (version, reserved, total) == (1, 0, len(data))
    dims = struct.unpack_from(f"<{rank}Q", data, 64)
    at = 64 + 8 * rank
    perm = tuple(data[at : at + rank])
    at += (rank + 7) // 8 * 8
    sections = []
    for k in range(count):
        offset, length = struct.unpack_from("<QQ", data, at + 16 * k)
        assert offset % 8 == 0
        sections.append(data[offset : offset + length])
    assert start == at + 16 * count
    return Blob(number, dtype, dims, perm, split, nnz, stored, params, sections)


def width(largest: int) -> int:
    return next(w for w in (1, 2, 4, 8) if largest < 1 << (8 * w))


def numbers(section: bytes, w: int) -> list[int]:
    assert len(section) % w == 0
    return [int.from_bytes(section[i : i + w], "little") for i in range(0, len(section), w)]


def bit(section: bytes, i: int) -> int:
    return section[i // 8] >> (i % 8) & 1


def entries(b: Blob) -> Iterator[tuple[int, int, bytes]]:
    """Yield (row, column, value bytes) of every stored slot."""
    rows, cols, s = b.rows, b.cols, b.sections
    if rows * cols == 0:
        return
    if b.format == 1 and b.params[0] == 0:
        for k, i in enumerate(numbers(s[1], width(rows * cols - 1))):
            yield i // cols, i % cols, b.value(k)
    elif b.format == 1:
        dims = [b.dims[a] for a in b.perm]
        flat = numbers(s[1], width(max(dims, default=1) - 1))
        for k in range(b.nnz):
            i = 0
            for axis, dim in enumerate(dims):
                i = i * dim + flat[k * len(dims) + axis]
            yield i // cols, i % cols, b.value(k)
    elif b.format in (2, 3):
        major, minor = (rows, cols) if b.format == 2 else (cols, rows)
        index, pointer = numbers(s[1], width(minor - 1)), numbers(s[2], width(b.nnz))
        assert len(pointer) == major + 1
        for i in range(major):
            for k in range(pointer[i], pointer[i + 1]):
                place = (i, index[k]) if b.format == 2 else (index[k], i)
                yield *place, b.value(k)
    elif b.format == 4:
        h, w = b.params[:2]
        across, count = -(-cols // w), b.stored // (h * w)
        index, pointer = numbers(s[1], width(across - 1)), numbers(s[2], width(count))
        for i in range(-(-rows // h)):
            for k in range(pointer[i], pointer[i + 1]):
                for y in range(h):
                    for x in range(w):
                        yield i * h + y, index[k] * w + x, b.value((k * h + y) * w + x)
    elif b.format == 5:
        k = 0
        for i in range(rows * cols):
            if bit(s[1], i):
                yield i // cols, i % cols, b.value(k)
                k += 1
    elif b.format == 6:
        n, m = b.params[:2]
        bits, groups = (2 if m <= 4 else 4), -(-cols // m)
        words = -(-groups * n * bits // 16)
        for r in range(rows):
            row = s[1][r * words * 2 : (r + 1) * words * 2]
            string = int.from_bytes(row, "little")
            for e in range(groups * n):
                position = string >> (e * bits) & ((1 << bits) - 1)
                yield r, e // n * m + position, b.value(r * groups * n + e)
    elif b.format == 7:
        p = b.params[0]
        pointer = numbers(s[2], width(b.stored))
        for segment in range(p * cols):
            pe, c = segment // cols, segment % cols
            local = -1
            for k in range(pointer[segment], pointer[segment + 1]):
                z = s[1][k // 2] >> (4 * (k % 2)) & 15
                local += z + 1
                yield local * p + pe, c, b.value(k)
    else:
        raise AssertionError(f"format {b.format}")


def dense(data: bytes) -> bytes:
    """Return the bytes of the dense tensor, row-major."""
    b = read(data)
    size, rows, cols = ITEMSIZE[b.dtype], b.rows, b.cols
    out = bytearray(rows * cols * size)
    for r, c, value in entries(b):
        if r >= rows or c >= cols:
            assert not any(value)
            continue
        if not any(value):
            continue
        f = r * cols + c
        index = [0] * len(b.dims)
        for axis in reversed(b.perm):
            f, index[axis] = divmod(f, b.dims[axis])
        at = 0
        for dim, i in zip(b.dims, index, strict=True):
            at = at * dim + i
        out[at * size : (at + 1) * size] = value
    return bytes(out)
