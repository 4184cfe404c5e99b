"""Tensors and blobs that several tests share, and that vectors.json is made of."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np

from onnxprune.formats import View, encode, last_axis_view
from onnxprune.formats.bits import DTYPES

OPTIONS: list[tuple[str, tuple[int, int] | None]] = [
    ("coo", None),
    ("coo", (1, 0)),
    ("csr", None),
    ("csc", None),
    ("bsr", None),
    ("bsr", (1, 4)),
    ("bsr", (3, 2)),
    ("bitmap", None),
    ("nm", None),
    ("nm", (1, 4)),
    ("nm", (1, 2)),
    ("nm", (5, 16)),
    ("eie", None),
    ("eie", (3, 0)),
]
"""(format, option) pairs that between them reach every branch of every format."""

SHAPES: list[tuple[int, ...]] = [(), (1,), (0,), (7,), (1, 1), (5, 0), (0, 3), (6, 9), (4, 3, 2, 5)]


def option_id(option: tuple[str, tuple[int, int] | None]) -> str:
    return option[0] if option[1] is None else f"{option[0]}-{option[1][0]}x{option[1][1]}"


def random_bits(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any], density: float
) -> Any:
    """Elements of any bit pattern at all: denormals, NaNs with payload, infinities, -0.0."""
    size = int(np.prod(shape))
    if dtype == np.dtype(np.bool_):
        return (rng.random(size) < density).reshape(shape)
    raw = rng.integers(0, 256, size * dtype.itemsize, dtype=np.uint8).view(dtype)
    special = np.zeros(size, dtype)
    special.view(f"u{dtype.itemsize}")[:] = 1 << (8 * dtype.itemsize - 1)  # -0.0 for floats
    values = np.where(rng.random(size) < 0.1, special, raw)
    bits = values.view(f"u{dtype.itemsize}") * (rng.random(size) < density)
    return bits.astype(f"u{dtype.itemsize}").view(dtype).reshape(shape)


def fit(tensor: Any, format: str, block: tuple[int, int] | None, view: View | None) -> Any:
    """Zero what N:M does not allow; other formats take the tensor as it is."""
    if format != "nm" or tensor.ndim == 0 or not tensor.size:
        return tensor
    kept, group = block or (2, 4)
    axes = view.perm if view else tuple(range(tensor.ndim))
    split = view.split if view else (1 if tensor.ndim >= 2 else 0)
    moved = tensor.transpose(axes)
    rows = int(np.prod(moved.shape[:split]))
    grid = moved.reshape(rows, -1).copy()
    for start in range(0, grid.shape[1], group):
        part = grid[:, start : start + group]
        for row in part:
            nonzero = np.flatnonzero(np.ascontiguousarray(row).view(f"u{row.dtype.itemsize}") != 0)
            row[nonzero[kept:]] = np.zeros((), row.dtype)
    inverse = np.argsort(axes)
    return np.ascontiguousarray(grid.reshape(moved.shape).transpose(inverse))


def with_crc(blob: bytes | bytearray) -> bytes:
    """Return the blob with the checksum that its bytes demand."""
    fixed = bytearray(blob)
    if len(fixed) >= 8:
        struct.pack_into("<I", fixed, 4, zlib.crc32(bytes(fixed[8:])))
    return bytes(fixed)


def vectors() -> list[dict[str, Any]]:
    """Return the content of vectors.json: one small blob a format, option and view."""
    rng = np.random.default_rng(20240607)
    conv = View((0, 2, 3, 1), 1)
    cases: list[tuple[str, tuple[int, ...], int, View | None]] = [
        ("matrix", (6, 9), 1, None),
        ("matrix-f16", (5, 20), 10, View((1, 0), 1)),
        ("conv", (4, 8, 3, 3), 1, conv),
        ("conv-odd", (3, 5, 2, 2), 16, last_axis_view(4, 1)),
        ("tall", (40, 3), 3, None),
        ("vector", (11,), 6, None),
        ("empty", (0, 4), 1, None),
        ("scalar", (), 1, None),
    ]
    result: list[dict[str, Any]] = []
    for name, shape, number, view in cases:
        for format, block in OPTIONS:
            rows = (view.shape(shape) if view else (shape[0] if len(shape) > 1 else 1, 0))[0]
            if format == "eie" and block and block[0] > max(rows, 1):
                continue
            dense = fit(random_bits(rng, shape, DTYPES[number], 0.3), format, block, view)
            blob = encode(dense, format, view=view, block=block)
            result.append(
                {
                    "name": f"{name}/{option_id((format, block))}",
                    "format": format,
                    "block": block,
                    "dtype": number,
                    "shape": list(shape),
                    "perm": list(view.perm) if view else None,
                    "split": view.split if view else None,
                    "dense": dense.tobytes().hex(),
                    "blob": blob.hex(),
                }
            )
    return result


def hostile() -> list[dict[str, str]]:
    """Return the content of hostile.json: damaged blobs, mostly with a right checksum."""
    dense = np.zeros((4, 16), np.float32)
    dense[0, 1], dense[0, 5], dense[2, 3], dense[3, 15] = 1, 2, 3, 4
    blobs = {format: encode(dense, format) for format in _FORMATS}
    csr = blobs["csr"]
    start = struct.unpack_from("<Q", csr, 56)[0]
    result: list[dict[str, str]] = []

    def add(name: str, reason: str, blob: bytes | bytearray, *, fix: bool = True) -> None:
        data = with_crc(blob) if fix else bytes(blob)
        result.append({"name": name, "reason": reason, "blob": data.hex()})

    def patched(blob: bytes, at: int, kind: str, *values: int) -> bytearray:
        copy = bytearray(blob)
        struct.pack_into("<" + kind, copy, at, *values)
        return copy

    def section(blob: bytes, k: int) -> int:
        table = 64 + 16 + 8 + 16 * k  # rank 2
        return int(struct.unpack_from("<Q", blob, table)[0])

    add("nothing", "shorter than the fixed header", b"", fix=False)
    add("63 bytes", "shorter than the fixed header", csr[:63], fix=False)
    add("wrong magic", "it starts with", b"XPSW" + csr[4:], fix=False)
    add("version 0", "version 0 is unknown", patched(csr, 8, "H", 0))
    add("version 2", "version 2 is unknown", patched(csr, 8, "H", 2))
    add("bad checksum", "checksum", patched(csr, start, "B", csr[start] ^ 1), fix=False)
    add("truncated", "bytes but has", csr[:-1])
    add("trailing byte", "bytes but has", csr + b"\0")
    add("trailing byte owned up", "follow the last section",
        patched(csr + b"\0", 16, "Q", len(csr) + 1))  # fmt: skip
    add("unknown format", "format number 99", patched(csr, 10, "B", 99))
    add("unknown dtype", "element type 8", patched(csr, 11, "B", 8))
    add("rank 17", "out of range", patched(csr, 12, "B", 17))
    add("rank 16 without room", "where it must", patched(csr, 12, "B", 16))
    add("split beyond rank", "out of range", patched(csr, 13, "B", 3))
    add("255 sections", "where it must", patched(csr, 14, "B", 255))
    add("reserved set", "out of range", patched(csr, 15, "B", 1))
    add("header size", "where it must", patched(csr, 56, "Q", start + 8))
    add("nnz too large", "do not fit", patched(csr, 24, "Q", 5))
    add("nnz too small", "another number stored", patched(csr, 24, "Q", 3))
    add("stored huge", "too large", patched(csr, 32, "Q", 1 << 60))
    add("stored wrong", "are not 5 elements", patched(csr, 32, "Q", 5))
    add("dim huge", "too large", patched(csr, 64, "Q", 1 << 63))
    add("dims overflow 2^64", "too large", patched(csr, 64, "QQ", 1 << 33, 1 << 33))
    add("dim 0", "do not fit", patched(csr, 64, "Q", 0))
    add("dense size above the limit", "above the limit", patched(csr, 64, "Q", 1 << 40))
    add("perm repeated", "not a permutation", patched(csr, 80, "BB", 1, 1))
    add("perm out of range", "not a permutation", patched(csr, 80, "BB", 0, 200))
    add("perm padding", "not a permutation", patched(csr, 87, "B", 1))
    add("params on csr", "cannot have parameters", patched(csr, 40, "I", 1))
    add("section offset", "is not where it must be", patched(csr, 88, "Q", start + 8))
    add("section offset huge", "is not where it must be", patched(csr, 88, "Q", (1 << 64) - 8))
    add("section length huge", "is not where it must be", patched(csr, 96, "Q", (1 << 64) - 1))
    columns, pointers = section(csr, 1), section(csr, 2)
    add("csr padding", "padding before section", patched(csr, columns + 4, "B", 1))
    add("csr column out of range", "not below 16", patched(csr, columns, "B", 16))
    add("csr unsorted", "strictly increasing", patched(csr, columns, "BB", 5, 1))
    add("csr repeated", "strictly increasing", patched(csr, columns, "BB", 1, 1))
    add("csr pointers start", "do not rise", patched(csr, pointers, "B", 1))
    add("csr pointers fall", "do not rise", patched(csr, pointers + 1, "BB", 3, 2))
    add("csr pointers end", "do not rise", patched(csr, pointers + 4, "B", 5))
    add("csr explicit zero", "another number stored", patched(csr, start, "I", 0))
    csc = blobs["csc"]
    add("csc row out of range", "not below 4", patched(csc, section(csc, 1), "B", 4))
    coo = blobs["coo"]
    add("coo index out of range", "beyond the tensor", patched(coo, section(coo, 1) + 3, "B", 64))
    add("coo unsorted", "strictly increasing", patched(coo, section(coo, 1), "BB", 5, 1))
    add("coo kind", "cannot have parameters", patched(coo, 40, "I", 2))
    bsr = blobs["bsr"]
    add("bsr block 0", "cannot have parameters", patched(bsr, 40, "I", 0))
    add("bsr block 257", "cannot have parameters", patched(bsr, 40, "I", 257))
    add("bsr other block", "not whole", patched(bsr, 40, "II", 3, 1))
    add("bsr column out of range", "not below 16", patched(bsr, section(bsr, 1) + 3, "B", 16))
    bitmap = blobs["bitmap"]
    add("bitmap bit too many", "bits set", patched(bitmap, section(bitmap, 1), "B", 255))
    nm = blobs["nm"]
    add("nm 4:4", "cannot have parameters", patched(nm, 40, "II", 4, 4))
    add("nm 2:32", "cannot have parameters", patched(nm, 40, "II", 2, 32))
    add("nm positions fall", "do not increase", patched(nm, section(nm, 1), "B", 0x11))
    add("nm positions repeat", "do not increase", patched(nm, section(nm, 1), "B", 0x00))
    add("nm spare slot", "smallest positions", patched(nm, section(nm, 1), "B", 0x4D))
    eie = blobs["eie"]
    add("eie no elements", "cannot have parameters", patched(eie, 40, "I", 0))
    add("eie too many elements", "cannot have parameters", patched(eie, 40, "I", 5))
    add("eie past the last row", "past row 3", patched(eie, section(eie, 1), "B", 0xFF))
    add("eie pointers fall", "do not rise", patched(eie, section(eie, 2) + 2, "BB", 3, 1))
    return result


_FORMATS = ("coo", "csr", "csc", "bsr", "bitmap", "nm", "eie")
