"""``csr``: compressed sparse rows.

Blob layout (docs/formats.md, 3.2): no params; section 0 values row by row; section 1 column of
each value, narrowest width for ``C - 1``; section 2 ``R + 1`` row pointers, narrowest width for
``nnz``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.formats.base import FORMATS, NO_PARAMS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits
from onnxprune.formats.blob import Header, refuse
from onnxprune.formats.compressed import compress, compressed_lengths, expand


class Csr(Format):
    """Compressed sparse rows."""

    name = "csr"
    number = 2
    sections = 3
    summary = "compressed sparse rows: values, columns, row pointers"

    def check_params(self, header: Header) -> bool:
        """There are none."""
        return header.params == NO_PARAMS

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values, columns, pointers."""
        counts = compressed_lengths(matrix.nnz, matrix.rows, matrix.cols)
        return [matrix.nnz * matrix.itemsize, *counts]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values, columns, pointers."""
        columns, pointers = compress(matrix.nonzero, matrix.rows, matrix.cols)
        return [matrix.flat[matrix.nonzero], columns, pointers]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and scatter."""
        if header.nnz != header.stored:
            refuse("csr stores an explicit zero")
        shape = header.rows, header.cols
        positions = expand(sections[1], sections[2], header.nnz, *shape, self.name)
        values = np.frombuffer(sections[0], f"<u{header.itemsize}")
        flat: Bits = np.zeros(header.numel, values.dtype)
        flat[positions] = values
        return flat


FORMATS.register(Csr.name, Csr())
