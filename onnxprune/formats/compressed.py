"""Compressed rows: what ``csr``, ``csc`` and ``bsr`` share.

An increasing list of flat positions in a ``rows x cols`` matrix becomes column numbers plus one
pointer per row, each in the narrowest integer type; and back, with every check.
"""

from __future__ import annotations

import numpy as np

from onnxprune.formats.bits import Array, Index, index_dtype
from onnxprune.formats.blob import refuse


def compress(positions: Index, rows: int, cols: int) -> tuple[Array, Array]:
    """Return (columns, pointers) of increasing flat ``positions``.

    ``columns`` has one entry a position, ``pointers`` rows + 1; both of :func:`index_dtype`.
    """
    starts = np.arange(rows + 1, dtype=np.int64) * cols
    pointers = np.searchsorted(positions, starts)
    columns = positions - np.repeat(starts[:-1], np.diff(pointers))
    return columns.astype(index_dtype(cols - 1)), pointers.astype(index_dtype(positions.size))


def compressed_lengths(count: int, rows: int, cols: int) -> list[int]:
    """Return the bytes of (columns, pointers) for ``count`` positions."""
    return [
        count * index_dtype(cols - 1).itemsize,
        (rows + 1) * index_dtype(count).itemsize,
    ]


def expand(
    columns: memoryview, pointers: memoryview, count: int, rows: int, cols: int, name: str
) -> Index:
    """Return the increasing flat positions; the inverse of :func:`compress`.

    Raises:
        LoadError: wrong lengths, a column out of range or unsorted, pointers that decrease or
            do not run from 0 to ``count``.
    """
    if [len(columns), len(pointers)] != compressed_lengths(count, rows, cols):
        refuse(f"{name} has indices or pointers of the wrong length")
    index = np.frombuffer(columns, index_dtype(cols - 1))
    pointer = np.frombuffer(pointers, index_dtype(count))
    if int(pointer[0]) != 0 or int(pointer[-1]) != count or np.any(pointer[1:] < pointer[:-1]):
        refuse(f"{name} pointers do not rise from 0 to {count}")
    if index.size and int(index.max()) >= cols:
        refuse(f"a {name} index is not below {cols}")
    starts = np.arange(rows, dtype=np.int64) * cols
    ends = pointer.astype(np.int64)
    positions: Index = np.repeat(starts, ends[1:] - ends[:-1])
    positions += index
    if np.any(positions[1:] <= positions[:-1]):
        refuse(f"{name} indices are not strictly increasing inside a row")
    return positions
