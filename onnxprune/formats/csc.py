"""``csc``: compressed sparse columns; ``csr`` of the transposed matrix.

Blob layout (docs/formats.md, 3.3): no params; section 0 values column by column; section 1 row
of each value, narrowest width for ``R - 1``; section 2 ``C + 1`` column pointers, narrowest width
for ``nnz``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.formats.base import FORMATS, NO_PARAMS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits
from onnxprune.formats.blob import Header, refuse
from onnxprune.formats.compressed import compress, compressed_lengths, expand


class Csc(Format):
    """Compressed sparse columns."""

    name = "csc"
    number = 3
    sections = 3
    summary = "compressed sparse columns: values, rows, column pointers"

    def check_params(self, header: Header) -> bool:
        """There are none."""
        return header.params == NO_PARAMS

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values, rows, pointers."""
        counts = compressed_lengths(matrix.nnz, matrix.cols, matrix.rows)
        return [matrix.nnz * matrix.itemsize, *counts]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values, rows, pointers."""
        row, column = matrix.by_column
        rows, pointers = compress(column * matrix.rows + row, matrix.cols, matrix.rows)
        return [matrix.grid[row, column], rows, pointers]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and scatter."""
        if header.nnz != header.stored:
            refuse("csc stores an explicit zero")
        rows, cols = header.rows, header.cols
        positions = expand(sections[1], sections[2], header.nnz, cols, rows, self.name)
        column, row = np.divmod(positions, rows)
        values = np.frombuffer(sections[0], f"<u{header.itemsize}")
        flat: Bits = np.zeros(rows * cols, values.dtype)
        flat[row * cols + column] = values
        return flat


FORMATS.register(Csc.name, Csc())
