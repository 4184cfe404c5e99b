"""ExactOBS: greedy elimination with exact compensation, all sparsity levels in one run.

Frantar and Alistarh, "Optimal Brain Compression" (2022), algorithms 1 and 2: remove the cell whose
removal raises the layer error least, ``1/2 w_B [(H^-1)_BB]^-1 w_B^T``, move the rest of the row to its
new optimum, and downdate ``H^-1``. Cells cover single weights, N:M, blocks and kernels, and rows that
share a mask share one elimination (:class:`~onnxprune.recovery.structure.Structure`).

The downdates are kept as a narrow panel of factor rows and applied to ``H^-1`` as one matrix product
per :data:`PANEL` columns, and many row groups advance together, so that the work is GEMM rather than
memory traffic; dead columns are squeezed out as they accumulate. Only numpy's BLAS is used in the loop:
scipy ships another copy with its own threads, and the two fight for the cores when they alternate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.structure import Structure

#: Columns eliminated between two updates of the stored inverses.
PANEL = 32
#: At most 32 row groups advance together, and only while their inverses fit this many bytes.
CHUNK_BYTES = 256 << 20
#: Inverses are compacted once this fraction of their columns is dead.
DEAD_FRACTION = 0.2


@dataclass(frozen=True)
class Trace:
    """The order in which cells left, for every sparsity level at once.

    Attributes:
        structure: the geometry the cells belong to.
        order: cell column eliminated at each step [P, S], padding first.
        loss: rise of ``1/2 tr((B - B*) H (B - B*)^T)`` at each step [P, S].
        weights: values after the last step [R, d]; equal to least squares on what is left.
    """

    structure: Structure
    order: Ints
    loss: F64
    weights: F64

    def removed_per_group(self, keep: int | None = None) -> Ints:
        """Number of steps each row group takes so that ``keep`` real cells stay in the layer [P].

        The rows' loss sequences are merged: a step can be taken only after all earlier ones of its
        row, so its price is the running maximum of its row.
        """
        groups, steps = self.order.shape
        if self.structure.m:
            return np.full(groups, steps, dtype=np.int64)
        padded = int(self.structure.padding.sum())
        gone = self.structure.cells - self.structure.check_keep(keep) + groups * padded
        price = np.maximum.accumulate(self.loss, axis=1)
        price[:, :padded] = -1.0
        taken = np.argsort(price, axis=None, kind="stable")[:gone] // max(steps, 1)
        return np.bincount(taken, minlength=groups).astype(np.int64)

    def mask(self, keep: int | None = None) -> Mask:
        """What is kept [R, d] when ``keep`` cells stay (``keep`` is not used with N:M)."""
        counts = self.removed_per_group(keep)
        groups, cells = self.structure.grid
        kept = np.ones((groups, cells), dtype=np.bool_)
        early = np.arange(self.order.shape[1]) < counts[:, None]
        kept[np.nonzero(early)[0], self.order[early]] = False
        return self.structure.expand(kept)


def exact_obs(problem: Quadratic, structure: Structure, *, steps: int | None = None) -> Trace:
    """Eliminate cells one by one in every row group.

    Args:
        problem: the damped layer problem.
        structure: cells and N:M buckets over its weight matrix.
        steps: cells to eliminate per row group; default all (N:M: until every bucket is full).

    Returns:
        The trace. Cost about R d^3 flops over ``height``, memory :data:`CHUNK_BYTES` plus a few
        copies of one [d, d] matrix.
    """
    groups, cells = structure.grid
    limit = cells // structure.m * (structure.m - structure.n) if structure.m else cells
    steps = limit if steps is None else min(steps, limit)
    inverse = structure.gather_square(problem.inverse)
    weights = structure.gather(problem.target)
    order = np.zeros((groups, steps), dtype=np.int64)
    loss = np.zeros((groups, steps))
    size = structure.order.size
    chunk = max(1, min(32, groups, CHUNK_BYTES // max(1, 8 * size * size)))
    store = np.empty((chunk, size * size))
    for start in range(0, groups, chunk):
        part = slice(start, min(start + chunk, groups))
        state = _Elimination(inverse, weights[part], structure, store)
        for step in range(steps):
            order[part, step], loss[part, step] = state.eliminate()
        weights[part] = state.full_weights()
    flat = weights.reshape(-1, size)[: structure.rows]
    out = np.zeros(problem.shape)
    real = structure.order >= 0
    out[:, structure.order[real]] = flat[:, real]
    return Trace(structure, order, loss, out)


class _Elimination:
    """State of a chunk of row groups: Q groups, E live columns of C' cells, width c, height r."""

    def __init__(self, inverse: F64, weights: F64, structure: Structure, store: F64) -> None:
        self.width = structure.width
        self.m = structure.m
        self.room = structure.m - structure.n
        groups, height, size = weights.shape
        cells = size // self.width
        self.rows = np.arange(groups)
        self.weights = weights.copy()  # [Q, r, E]
        self.store = store[:groups]  # memory of ``own``, reused by the next chunk
        self.scratch = np.empty(size * size)
        self.shared = True  # no group has been updated yet: all read the same inverse
        self.own = inverse[None]  # [1 or Q, E, E]
        self.panel = np.empty((groups, PANEL + self.width, size))
        self.filled = 0
        self.ids = np.tile(np.arange(cells), (groups, 1))  # cell at each compact position [Q, C']
        self.live = np.ones((groups, cells), dtype=np.bool_)
        self.blocked = np.zeros((groups, cells), dtype=np.bool_)
        self.taken = np.zeros((groups, cells // self.m), dtype=np.int64) if self.m else None
        self.padding = np.tile(structure.padding, (groups, 1))
        self.result = np.zeros((groups, height, size))
        starts = np.arange(cells)[:, None] * self.width + np.arange(self.width)
        self.blocks = np.tile(inverse[starts[:, :, None], starts[:, None, :]], (groups, 1, 1, 1))
        self.dead = 0

    def eliminate(self) -> tuple[Ints, F64]:
        """Remove the cheapest cell of every group: (cells [Q], rises of the halved error [Q])."""
        pick = np.argmin(self._scores(), axis=1)
        columns = pick[:, None] * self.width + np.arange(self.width)  # [Q, c]
        rows = self.rows[:, None]
        strip = self.own[0 if self.shared else rows, columns]  # [Q, c, E]
        if self.filled:
            panel = self.panel[:, : self.filled]
            known = np.take_along_axis(panel, columns[:, None, :], axis=2)  # [Q, t, c]
            strip = strip - np.matmul(known.transpose(0, 2, 1), panel)
        pivot = np.take_along_axis(strip, columns[:, None, :], axis=2)
        if self.width == 1:
            low = 1.0 / np.sqrt(np.maximum(pivot, 1e-300))
        else:
            low = np.linalg.inv(np.linalg.cholesky(pivot))
        strip = np.matmul(low, strip)  # rows l with  H^-1 <- H^-1 - l^T l
        chosen = np.take_along_axis(self.weights, columns[:, None, :], axis=2)  # [Q, r, c]
        change = np.matmul(chosen, low.transpose(0, 2, 1))
        loss: F64 = 0.5 * np.einsum("qrc,qrc->q", change, change)
        self.weights -= np.matmul(change, strip)
        np.put_along_axis(self.weights, columns[:, None, :], 0.0, axis=2)
        self.panel[:, self.filled : self.filled + self.width] = strip
        self.filled += self.width
        self._downdate_blocks(strip)
        cell: Ints = self.ids[self.rows, pick]
        self._retire(pick, cell)
        if self.filled >= PANEL:
            self._flush()
        return cell, loss

    def full_weights(self) -> F64:
        """Current weights in the uncompacted column order [Q, r, D]."""
        columns = self.ids[:, :, None] * self.width + np.arange(self.width)
        # Later updates leave rounding noise on eliminated columns.
        self.weights *= np.repeat(self.live, self.width, axis=1)[:, None, :]
        np.put_along_axis(
            self.result, columns.reshape(self.rows.size, 1, -1), self.weights, axis=2
        )
        return self.result

    def _scores(self) -> F64:
        groups, height, size = self.weights.shape
        if self.width == 1:
            square = np.einsum("qre,qre->qe", self.weights, self.weights)
            scores = square / self.blocks[:, :, 0, 0]
        else:
            w = self.weights.reshape(groups, height, -1, self.width).transpose(0, 2, 3, 1)
            scores = np.einsum("qecr,qecr->qe", w, np.linalg.solve(self.blocks, w))
        scores[self.padding] = -1.0
        scores[~self.live | self.blocked] = np.inf
        return scores

    def _downdate_blocks(self, strip: F64) -> None:
        if self.width == 1:
            self.blocks[:, :, 0, 0] -= strip[:, 0] ** 2
            return
        cut = strip.reshape(*strip.shape[:2], -1, self.width).transpose(0, 2, 3, 1)
        self.blocks -= np.matmul(cut, cut.transpose(0, 1, 3, 2))

    def _retire(self, pick: Ints, cell: Ints) -> None:
        self.live[self.rows, pick] = False
        self.blocks[self.rows, pick] = np.eye(self.width)
        self.dead += 1
        if self.taken is not None:
            bucket = cell // self.m
            self.taken[self.rows, bucket] += 1
            full = self.taken[self.rows, bucket] >= self.room
            self.blocked |= full[:, None] & (self.ids // self.m == bucket[:, None])

    def _flush(self) -> None:
        """Apply the panel to the stored inverses, then squeeze out dead columns if many."""
        size = self.own.shape[-1]
        if self.shared:
            source, self.own = self.own, self._stored(size)
            self.own[:] = source
            self.shared = False
        product = self.scratch[: size * size].reshape(size, size)
        for own, panel in zip(self.own, self.panel[:, : self.filled], strict=True):
            # The copy keeps numpy off its product-with-own-transpose path, which is far slower.
            own -= np.matmul(panel.T.copy(), panel, out=product)
        self.filled = 0
        cells = self.ids.shape[1]
        if self.dead < DEAD_FRACTION * cells or self.dead == cells:
            return
        keep = np.nonzero(self.live)[1].reshape(self.rows.size, -1)  # same count in every group
        columns = (keep[:, :, None] * self.width + np.arange(self.width)).reshape(keep.shape[0], -1)
        squeezed = self._stored(columns.shape[1])
        for group, wanted in enumerate(columns):
            squeezed[group] = self.own[group][wanted][:, wanted]
        self.own = squeezed
        self.weights = np.take_along_axis(self.weights, columns[:, None, :], axis=2)
        self.blocks = np.take_along_axis(self.blocks, keep[:, :, None, None], axis=1)
        self.ids, self.blocked, self.padding = (
            np.take_along_axis(a, keep, axis=1) for a in (self.ids, self.blocked, self.padding)
        )
        self.live = np.ones_like(self.blocked)
        self.panel = np.empty((self.rows.size, PANEL + self.width, columns.shape[1]))
        self.dead = 0

    def _stored(self, size: int) -> F64:
        """Room for one [size, size] matrix per group; a group's new matrix may overlay its old."""
        return self.store[:, : size * size].reshape(-1, size, size)
