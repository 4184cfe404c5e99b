"""``csc``: compressed sparse columns; ``csr`` of the transposed matrix.

Blob layout (docs/formats.md, 3.3): no params; section 0 values column by column; section 1 row
of each value, narrowest width for ``R - 1``; section 2 ``C + 1`` column pointers, narrowest width
for ``nnz``.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.formats.base import FORMATS, NO_PARAMS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits
from onnxprune.formats.blob import Header
from onnxprune.formats.compressed import compress, compressed_lengths
from onnxprune.formats.csr import decode_rows


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
        turned = matrix.transposed
        rows, pointers = compress(turned.nonzero, turned.rows, turned.cols)
        return [turned.flat[turned.nonzero], rows, pointers]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and scatter."""
        turned = decode_rows(header, sections, header.cols, header.rows, self.name)
        flat: Bits = turned.reshape(header.cols, header.rows).T.reshape(-1)
        return flat


FORMATS.register(Csc.name, Csc())
