"""``eie``: columns of values with 4-bit distances, optionally interleaved over PEs.

After Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural Network", ISCA 2016,
section III. Blob layout (docs/formats.md, 3.7): params ``[P, 0, 0, 0]``; row r belongs to
processing element ``r % P``; a segment is one column of one element, element by element; each
entry is a value (section 0) and the number of zeros before it (section 1, two to a byte, low half
first); where more than 15 zeros precede, padding entries (value 0, distance 15) stand for 16
zeros each; section 2 holds ``P*C + 1`` pointers. Values keep their own type: the paper's 4-bit
weight codes are not part of this format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.formats.base import FORMATS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits, Index, index_dtype, pack_fields, unpack_fields
from onnxprune.formats.blob import Header, refuse

_BYTE = np.dtype(np.uint8)
_RUN = 16
"""A padding entry stands for this many zeros."""


class Eie(Format):
    """EIE's relative index."""

    name = "eie"
    number = 7
    sections = 3
    summary = "columns with 4-bit relative indices (--block P,0 interleaves over P elements)"

    def params(self, matrix: Matrix, block: tuple[int, int] | None) -> Params:
        """``block`` is (processing elements, 0); more elements than rows are a mistake."""
        elements, rest = block or (1, 0)
        if rest or not 1 <= elements <= max(matrix.rows, 1):
            raise UsageError(
                f"eie takes (P, 0) with P processing elements, 1..{max(matrix.rows, 1)} for "
                f"{matrix.rows} rows, got {block}"
            )
        return (elements, 0, 0, 0)

    def check_params(self, header: Header) -> bool:
        """The number of elements is in range."""
        elements, *rest = header.params
        return 1 <= elements <= max(header.rows, 1) and not any(rest)

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values, distances, pointers."""
        entries = _entries(matrix, params[0])
        stored = matrix.nnz + int(entries.padding.sum())
        pointers = (params[0] * matrix.cols + 1) * index_dtype(stored).itemsize
        return [stored * matrix.itemsize, -(-stored // 2), pointers]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values, distances, pointers."""
        entries = _entries(matrix, params[0])
        before = np.concatenate(([0], np.cumsum(entries.padding)))
        stored = matrix.nnz + int(before[-1])
        place = np.arange(matrix.nnz) + before[1:]
        values = np.zeros(stored, matrix.flat.dtype)
        values[place] = matrix.flat[entries.source]
        distance = np.full(stored, _RUN - 1, np.uint8)
        distance[place] = entries.gap % _RUN
        first = np.searchsorted(entries.segment, np.arange(params[0] * matrix.cols + 1))
        pointers = (first + before[first]).astype(index_dtype(stored))
        return [values, pack_fields(distance, 4, _BYTE), pointers]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check, turn distances into rows, scatter."""
        rows, cols, stored, elements = header.rows, header.cols, header.stored, header.params[0]
        pointer_type = index_dtype(stored)
        wanted = [-(-stored // 2), (elements * cols + 1) * pointer_type.itemsize]
        if [len(sections[1]), len(sections[2])] != wanted:
            refuse("eie has distances or pointers of the wrong length")
        packed = np.frombuffer(sections[1], np.uint8)
        if stored % 2 and int(packed[-1]) >> 4:
            refuse("eie has a distance past the last entry")
        pointer = np.frombuffer(sections[2], pointer_type).astype(np.int64)
        if pointer[0] != 0 or pointer[-1] != stored or np.any(pointer[1:] < pointer[:-1]):
            refuse(f"eie pointers do not rise from 0 to {stored}")
        values = np.frombuffer(sections[0], f"<u{header.itemsize}")
        distance = unpack_fields(packed, 4, stored)
        padding = values == 0
        last = pointer[1:][np.diff(pointer) > 0] - 1
        if np.any(distance[padding] != _RUN - 1) or np.any(padding[last]):
            refuse("eie has a zero value that is not padding")
        segment = np.repeat(np.arange(elements * cols), np.diff(pointer))
        steps = np.concatenate(([0], np.cumsum(distance.astype(np.int64) + 1)))
        local = steps[1:] - 1 - steps[pointer[:-1]][segment]
        element, column = np.divmod(segment, cols)
        row = local * elements + element
        if row.size and int(row.max()) >= rows:
            refuse(f"an eie entry lies past row {rows - 1}")
        flat: Bits = np.zeros(rows * cols, values.dtype)
        keep = ~padding
        flat[(row * cols + column)[keep]] = values[keep]
        return flat


@dataclass(frozen=True, eq=False)
class _Entries:
    """The non-zeros in storage order."""

    source: Index
    """Position in the row-major matrix."""
    segment: Index
    gap: Index
    """Zeros since the previous non-zero of the segment, or its start."""
    padding: Index
    """Padding entries needed in front."""


def _entries(matrix: Matrix, elements: int) -> _Entries:
    """Return the non-zeros, ordered by element, column, row."""
    row, column = matrix.by_column
    local, element = np.divmod(row, elements)
    segment = element * matrix.cols + column
    if elements > 1:
        order = np.argsort(segment, kind="stable")
        segment, local, row, column = segment[order], local[order], row[order], column[order]
    gap = local.copy()
    gap[1:] -= np.where(segment[1:] == segment[:-1], local[:-1] + 1, 0)
    return _Entries(row * matrix.cols + column, segment, gap, gap // _RUN)


FORMATS.register(Eie.name, Eie())
