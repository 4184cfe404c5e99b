"""``bsr``: block compressed rows, blocks of r x c.

Blob layout (docs/formats.md, 3.4): params ``[r, c, 0, 0]``; the matrix is covered by
``ceil(R/r) x ceil(C/c)`` blocks, those with a non-zero are stored; section 0 their elements, each
block row-major, 0 outside the matrix; section 1 the block columns; section 2 block row pointers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.formats.base import FORMATS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits
from onnxprune.formats.blob import Header, refuse
from onnxprune.formats.compressed import compress, compressed_lengths, expand

MAX_BLOCK = 256
DEFAULT = (4, 1)


class Bsr(Format):
    """Block compressed rows; 4x1 (four outputs share a mask) by default."""

    name = "bsr"
    number = 4
    sections = 3
    summary = "block compressed rows, RxC blocks (--block, default 4x1)"

    def params(self, matrix: Matrix, block: tuple[int, int] | None) -> Params:
        """``block`` is (height, width), each 1 .. 256."""
        height, width = block or DEFAULT
        if not (1 <= height <= MAX_BLOCK and 1 <= width <= MAX_BLOCK):
            raise UsageError(f"a bsr block is 1..{MAX_BLOCK} on each side, got {height}x{width}")
        return (height, width, 0, 0)

    def check_params(self, header: Header) -> bool:
        """Both sides are in range."""
        height, width, *rest = header.params
        return 1 <= height <= MAX_BLOCK and 1 <= width <= MAX_BLOCK and not any(rest)

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values, block columns, pointers."""
        height, width = params[:2]
        count = _occupied(matrix, height, width)
        grid = _grid(matrix.rows, matrix.cols, params)
        values = count * height * width * matrix.itemsize
        return [values, *compressed_lengths(count, *grid)]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values, block columns, pointers."""
        height, width = params[:2]
        down, across = _grid(matrix.rows, matrix.cols, params)
        blocks = _blocks(matrix.grid, height, width)
        kept = np.flatnonzero((blocks != 0).any(axis=1))
        columns, pointers = compress(kept, down, across)
        return [blocks[kept], columns, pointers]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and place the blocks."""
        height, width = header.params[:2]
        rows, cols = header.rows, header.cols
        down, across = _grid(rows, cols, header.params)
        count, rest = divmod(header.stored, height * width)
        if rest:
            refuse(f"{header.stored} slots are not whole {height}x{width} blocks")
        kept = expand(sections[1], sections[2], count, down, across, self.name)
        values = np.frombuffer(sections[0], f"<u{header.itemsize}").reshape(count, height, width)
        if not (values.reshape(count, height * width) != 0).any(axis=1).all():
            refuse("bsr stores a block of zeros")
        flat: Bits = np.zeros(rows * cols, values.dtype)
        top, left = (kept // across) * height, (kept % across) * width
        # one pass per slot of the block: blocks are small, and slots outside the matrix drop out
        for i in range(height):
            for j in range(width):
                inside = (top + i < rows) & (left + j < cols)
                slot = values[:, i, j]
                if np.any(slot[~inside]):
                    refuse("bsr has a value outside the matrix")
                flat[((top + i) * cols + left + j)[inside]] = slot[inside]
        return flat


def _grid(rows: int, cols: int, params: Params) -> tuple[int, int]:
    """Return the number of block rows and block columns."""
    return -(-rows // params[0]), -(-cols // params[1])


def _blocks(grid: Bits, height: int, width: int) -> Bits:
    """Return the blocks, row-major, as (number of blocks, height * width); zero-padded."""
    rows, cols = grid.shape
    down, across = -(-rows // height), -(-cols // width)
    if (down * height, across * width) != (rows, cols):
        grid = np.pad(grid, ((0, down * height - rows), (0, across * width - cols)))
    tiles = grid.reshape(down, height, across, width).swapaxes(1, 2)
    blocks: Bits = tiles.reshape(down * across, height * width)
    return blocks


def _occupied(matrix: Matrix, height: int, width: int) -> int:
    """Return how many blocks hold a non-zero, without building the blocks."""
    by_row = np.logical_or.reduceat(matrix.mask, np.arange(0, matrix.rows, height), axis=0)
    return int(
        np.count_nonzero(np.logical_or.reduceat(by_row, np.arange(0, matrix.cols, width), axis=1))
    )


FORMATS.register(Bsr.name, Bsr())
