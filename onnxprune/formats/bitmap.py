"""``bitmap``: one bit an element, and the non-zero values.

Blob layout (docs/formats.md, 3.5): no params; section 0 values in row-major order; section 1
``ceil(R*C/8)`` bytes, element i at bit ``i % 8`` (0 = least significant) of byte ``i / 8``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.formats.base import FORMATS, NO_PARAMS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits
from onnxprune.formats.blob import Header, refuse


class Bitmap(Format):
    """One bit an element; the smallest form at moderate sparsity."""

    name = "bitmap"
    number = 5
    sections = 2
    summary = "one bit an element plus the non-zero values"

    def check_params(self, header: Header) -> bool:
        """There are none."""
        return header.params == NO_PARAMS

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values and bits."""
        return [matrix.nnz * matrix.itemsize, -(-matrix.flat.size // 8)]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values and bits."""
        return [matrix.flat[matrix.nonzero], np.packbits(matrix.mask, bitorder="little")]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and scatter."""
        if header.nnz != header.stored:
            refuse("bitmap stores an explicit zero")
        if len(sections[1]) != -(-header.numel // 8):
            refuse("bitmap has a wrong number of bits")
        packed = np.frombuffer(sections[1], np.uint8)
        bits = np.unpackbits(packed, bitorder="little")
        if bits[header.numel :].any():
            refuse("bitmap has a bit past the last element")
        mask = bits[: header.numel].view(np.bool_)
        if int(np.count_nonzero(mask)) != header.nnz:
            refuse(f"bitmap does not have {header.nnz} bits set")
        values = np.frombuffer(sections[0], f"<u{header.itemsize}")
        flat: Bits = np.zeros(header.numel, values.dtype)
        flat[mask] = values
        return flat


FORMATS.register(Bitmap.name, Bitmap())
