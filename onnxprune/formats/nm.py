"""``nm``: at most N non-zeros in every M consecutive columns, NVIDIA's 2:4 in the first place.

Blob layout (docs/formats.md, 3.6): params ``[N, M, 0, 0]``; section 0 exactly N values a group;
section 1 metadata, the position of each value inside its group, 2 bits (M <= 4) or 4 bits
(M <= 16), lower position first, packed from the least significant bit into u16 words, each row
starting a new word. That is the logical layout that PTX ``mma.sp``, CUTLASS and cuSPARSELt
describe for 2:4, without their reordering of metadata across the threads of a warp.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError
from onnxprune.formats.base import FORMATS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits, pack_fields, unpack_fields, unsigned
from onnxprune.formats.blob import Header, refuse

MAX_M = 16
DEFAULT = (2, 4)
_WORD = unsigned(2)


class NM(Format):
    """N of every M columns, with 2- or 4-bit metadata."""

    name = "nm"
    number = 6
    sections = 2
    summary = "N:M with metadata, 2:4 as on NVIDIA hardware (--block, default 2:4)"

    def params(self, matrix: Matrix, block: tuple[int, int] | None) -> Params:
        """``block`` is (N, M), 1 <= N < M <= 16."""
        kept, group = block or DEFAULT
        if not 1 <= kept < group <= MAX_M:
            raise UsageError(f"N:M needs 1 <= N < M <= {MAX_M}, got {kept}:{group}")
        return (kept, group, 0, 0)

    def check_params(self, header: Header) -> bool:
        """N and M are in range."""
        kept, group, *rest = header.params
        return 1 <= kept < group <= MAX_M and not any(rest)

    def lengths(self, matrix: Matrix, params: Params) -> list[int] | None:
        """Return the lengths of values and metadata; ``None`` if a group holds more than N."""
        slots, words = _layout(matrix.cols, params)
        if matrix.nnz > matrix.rows * slots or int(_counts(matrix, params[1]).max()) > params[0]:
            return None
        return [matrix.rows * slots * matrix.itemsize, matrix.rows * words * 2]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values and metadata."""
        kept, group = params[:2]
        counts = _counts(matrix, group)
        if int(counts.max()) > kept:
            row, at = np.unravel_index(int(np.argmax(counts > kept)), counts.shape)
            raise UsageError(
                f"the tensor is not {kept}:{group}: row {row}, columns {at * group}.."
                f"{at * group + group - 1} hold {counts[row, at]} non-zeros; prune it with "
                f"--pattern {kept}:{group} first or choose another format"
            )
        groups = _padded(matrix.grid, group).reshape(-1, group)
        code = np.zeros(len(groups), np.uint16)
        for lane in range(group):
            code |= (groups[:, lane] != 0).astype(np.uint16) << np.uint16(lane)
        positions = _slots(kept, group)[code]
        values = np.take_along_axis(groups, positions.astype(np.int64), axis=1)
        metadata = pack_fields(positions.reshape(matrix.rows, -1), _width(group), _WORD)
        return [values, metadata]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check and place the values."""
        kept, group = header.params[:2]
        rows, cols = header.rows, header.cols
        slots, words = _layout(cols, header.params)
        if header.stored != rows * slots or len(sections[1]) != rows * words * 2:
            refuse(f"{kept}:{group} has a wrong number of values or metadata words")
        metadata = np.frombuffer(sections[1], _WORD).reshape(rows, words)
        fields = unpack_fields(metadata, _width(group), words * 16 // _width(group))
        if fields[:, slots:].any():
            refuse(f"{kept}:{group} metadata has bits past the last value")
        positions = fields[:, :slots].reshape(-1, kept)
        if np.any(positions[:, 1:] <= positions[:, :-1]) or int(positions.max()) >= group:
            refuse(f"{kept}:{group} positions do not increase inside a group")
        values = np.frombuffer(sections[0], f"<u{header.itemsize}").reshape(-1, kept)
        groups: Bits = np.zeros((rows * (slots // kept), group), values.dtype)
        np.put_along_axis(groups, positions.astype(np.int64), values, axis=1)
        _check_fill(groups, positions, kept, group)
        wide = groups.reshape(rows, -1)
        if wide[:, cols:].any():
            refuse(f"{kept}:{group} has a value past the last column")
        return wide[:, :cols].reshape(-1)


def _check_fill(groups: Bits, positions: npt.NDArray[np.uint8], kept: int, group: int) -> None:
    """Refuse a group whose spare slots are not at the smallest positions."""
    code = np.zeros(len(groups), np.uint16)
    for lane in range(group):
        code |= (groups[:, lane] != 0).astype(np.uint16) << np.uint16(lane)
    if not np.array_equal(_slots(kept, group)[code], positions):
        refuse(f"{kept}:{group} spare slots are not at the smallest positions")


def _width(group: int) -> int:
    """Return the bits of one position."""
    return 2 if group <= 4 else 4


def _layout(cols: int, params: Params) -> tuple[int, int]:
    """Return (value slots, metadata words) of one row."""
    slots = -(-cols // params[1]) * params[0]
    return slots, -(-slots * _width(params[1]) // 16)


def _padded(grid: Array, group: int) -> Array:
    """Return the grid with zero columns added up to a multiple of ``group``."""
    missing = -grid.shape[1] % group
    return np.pad(grid, ((0, 0), (0, missing))) if missing else grid


def _counts(matrix: Matrix, group: int) -> npt.NDArray[np.uint8]:
    """Return the non-zeros of each group, shape (rows, groups)."""
    mask = _padded(matrix.mask, group)
    counts = np.zeros((matrix.rows, mask.shape[1] // group), np.uint8)
    for lane in range(group):
        counts += mask[:, lane::group]
    return counts


@lru_cache(maxsize=32)
def _slots(kept: int, group: int) -> npt.NDArray[np.uint8]:
    """Return, for every bit mask of a group, the N positions its slots take.

    Shape (2**group, kept). Masks with more than ``kept`` bits have no meaning and hold zeros.
    """
    mask = (np.arange(1 << group)[:, None] >> np.arange(group)) & 1 == 1
    spare = kept - mask.sum(axis=1)
    chosen = mask | (~mask & (np.cumsum(~mask, axis=1) <= spare[:, None]))
    chosen[spare < 0] = False
    table = np.zeros((1 << group, kept), np.uint8)
    table[spare >= 0] = np.nonzero(chosen)[1].reshape(-1, kept)
    return table


FORMATS.register(NM.name, NM())
