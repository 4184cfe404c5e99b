"""What may be kept together: the geometry of a mask on one unfolded weight matrix.

A :class:`Structure` describes element, N:M, block, vector and kernel patterns alike: the columns of
W [R, d] are reordered so that everything tied together is contiguous, and the matrix is cut into
*cells* of ``height x width`` weights that share one fate. N:M is a limit on every *bucket* of ``m``
consecutive cells of a row. The mask searches that must eliminate step by step (ExactOBS, SparseGPT)
work on this form; a projection alone is enough for ADMM.

Columns are numbered in ONNX memory order: input channel first, then kernel position
(``column = channel * positions + position``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.patterns.base import Pattern
from onnxprune.patterns.nm import NM
from onnxprune.patterns.select import keep_largest
from onnxprune.recovery.problem import F64, Ints, Mask

#: Scores [R, d] in, kept weights [R, d] out.
Projection = Callable[[F64], Mask]


@dataclass(frozen=True)
class Structure:
    """Cells, and optionally N:M buckets of cells, over a weight matrix [rows, columns].

    Attributes:
        rows, columns: R and d.
        order: column of W at each position of the reordered matrix [D]; -1 is padding where a cell
            is narrower than ``width``. D is a multiple of ``width`` (and of ``m``).
        height, width: weights of one cell, rows by (reordered) columns.
        n, m: at most ``n`` of every ``m`` consecutive cells stay; ``m == 0`` means no such limit.
    """

    rows: int
    columns: int
    order: Ints
    height: int = 1
    width: int = 1
    n: int = 0
    m: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Cells: (row groups P, cells per row group C)."""
        return -(-self.rows // self.height), self.order.size // self.width

    @property
    def padding(self) -> Mask:
        """True where a cell column [C] holds no real column at all."""
        empty: Mask = np.all(self.order.reshape(-1, self.width) < 0, axis=1)
        return empty

    def gather(self, matrix: F64) -> F64:
        """Reorder [R, d] into [P, height, D], zero-padded."""
        groups, _ = self.grid
        out = np.zeros((groups * self.height, self.order.size), dtype=matrix.dtype)
        real = self.order >= 0
        out[: self.rows, real] = matrix[:, self.order[real]]
        return out.reshape(groups, self.height, self.order.size)

    def gather_square(self, matrix: F64) -> F64:
        """Reorder a [d, d] matrix into [D, D]; padded columns get a unit diagonal."""
        real = np.flatnonzero(self.order >= 0)
        columns = self.order[real]
        if real.size == self.order.size:
            return np.ascontiguousarray(matrix[columns][:, columns])
        out = np.eye(self.order.size, dtype=matrix.dtype)
        out[np.ix_(real, real)] = matrix[columns][:, columns]
        return out

    def cell_sums(self, scores: F64) -> F64:
        """Sum of [R, d] scores over every cell: [P, C]."""
        groups, cells = self.grid
        if self.height == 1 and self.width == 1:
            plain = np.array_equal(self.order, np.arange(self.columns))
            return scores if plain else self.gather(scores)[:, 0, :]
        parts = self.gather(scores).reshape(groups, self.height, cells, self.width)
        summed: F64 = parts.sum(axis=(1, 3))
        return summed

    def expand(self, cells: Mask) -> Mask:
        """Spread a decision per cell [P, C] over the weights [R, d]."""
        if self.height == self.width == 1 and np.array_equal(self.order, np.arange(self.columns)):
            return cells
        rows = np.repeat(cells, self.height, axis=0)[: self.rows]
        wide = np.repeat(rows, self.width, axis=1)
        out = np.zeros((self.rows, self.columns), dtype=np.bool_)
        real = self.order >= 0
        out[:, self.order[real]] = wide[:, real]
        return out

    @property
    def cells(self) -> int:
        """Number of real cells."""
        groups, cells = self.grid
        return groups * (cells - int(self.padding.sum()))

    def check_keep(self, keep: int | None) -> int:
        """Return the number of cells to keep.

        Raises:
            UsageError: ``keep`` is missing (without N:M) or outside 0..cells.
        """
        if self.m:
            return self.cells // self.m * self.n
        if keep is None or not 0 <= keep <= self.cells:
            raise UsageError(
                f"asked to keep {keep} of {self.cells} units: give a number from 0 to {self.cells}"
            )
        return keep

    def select(self, cell_scores: F64, keep: int | None = None) -> Mask:
        """Best cells [P, C]: the n of every m, or the ``keep`` largest of the layer.

        Ties go to the lower index, so the result is deterministic. With N:M, ``keep`` is not used.
        """
        groups, cells = self.grid
        scores = np.where(self.padding, -np.inf, cell_scores)
        if self.m:
            return top_of_buckets(scores.reshape(groups, -1, self.m), self.n).reshape(groups, cells)
        return keep_largest(scores.ravel(), self.check_keep(keep)).reshape(groups, cells)

    def project(self, scores: F64, keep: int | None = None) -> Mask:
        """Best mask [R, d] for non-negative scores [R, d]."""
        return self.expand(self.select(self.cell_sums(scores), keep))


def top_of_buckets(scores: F64, n: int) -> Mask:
    """Mask of the ``n`` largest along the last axis; ties to the lower index."""
    m = scores.shape[-1]
    if m > 16:
        ranked = np.argsort(-scores, axis=-1, kind="stable")[..., :n]
        mask = np.zeros(scores.shape, dtype=np.bool_)
        np.put_along_axis(mask, ranked, True, axis=-1)
        return mask
    # For the short buckets of real hardware m^2 vector comparisons beat a sort by far.
    columns = [np.ascontiguousarray(scores[..., i]) for i in range(m)]
    beaten_by = [np.zeros(scores.shape[:-1], dtype=np.int8) for _ in range(m)]
    for i in range(m):
        for j in range(i):
            wins = columns[i] > columns[j]
            beaten_by[j] += wins
            beaten_by[i] += ~wins
    return np.stack([rank < n for rank in beaten_by], axis=-1)


def structure_of(pattern: Pattern, shape: Sequence[int]) -> Structure | None:
    """Geometry of ``pattern`` on one group's weight, found by asking the pattern itself.

    Args:
        pattern: any registered pattern.
        shape: (R, I, *K) of the weight; its matrix is [R, I * prod(K)].

    Returns:
        The structure, or None where the units are no regular grid of row runs by column sets (then
        only the searches that need nothing but a projection apply).

    Raises:
        UsageError: the pattern does not fit this shape.
    """
    view = (1, *shape)
    reason = pattern.misfit(view)
    if reason is not None:
        raise UsageError(f"pattern {pattern.text} does not fit a weight of shape {shape}: {reason}")
    rows, channels, positions = shape[0], shape[1], math.prod(shape[2:])
    columns = channels * positions
    if isinstance(pattern, NM):
        order = np.arange(columns, dtype=np.int64).reshape(channels, positions).T.ravel()
        return Structure(rows, columns, order, n=pattern.n, m=pattern.m)
    if pattern.fixed_density is not None:
        return None
    if pattern.n_units(view) == rows * columns:
        return Structure(rows, columns, np.arange(columns, dtype=np.int64))
    labels = unit_labels(pattern, view).reshape(rows, columns)
    starts = np.flatnonzero(np.append(True, (labels[1:] != labels[:-1]).any(axis=1)))
    height = int(np.diff(np.append(starts, rows)).max())
    first = labels[starts]
    by_unit = np.argsort(first[0], kind="stable")
    _, counts = np.unique(first[0], return_counts=True)
    regular = np.array_equal(starts, np.arange(0, rows, height)) and all(
        _same_partition(first[0], row) for row in first[1:]
    )
    if not regular or np.unique(first[:, by_unit[0]]).size != starts.size:
        return None
    width = int(counts.max())
    slots = np.full((counts.size, width), -1, dtype=np.int64)
    slots[np.arange(width) < counts[:, None]] = by_unit
    return Structure(rows, columns, slots.ravel(), height=height, width=width)


def unit_labels(pattern: Pattern, shape: Sequence[int]) -> Ints:
    """Unit number of every weight of a canonical ``shape`` (G, O, I, *K), read off bit by bit."""
    ids = np.arange(pattern.n_units(shape), dtype=np.int64)
    labels = np.zeros(tuple(shape), dtype=np.int64)
    for bit in range(int(ids.size - 1).bit_length()):
        flags = (ids >> bit & 1).astype(np.bool_)
        labels |= pattern.mask_from_units(flags, shape).astype(np.int64) << bit
    return labels


def _same_partition(left: Ints, right: Ints) -> bool:
    """Whether two label rows cut the columns into the same sets."""
    return np.array_equal(
        np.unique(left, return_inverse=True)[1], np.unique(right, return_inverse=True)[1]
    )
