"""Step-by-step OBS elimination of cells in many row groups at once.

Removing the columns B of a row moves the others by ``-w_B [(H^-1)_BB]^-1 (H^-1)_B:`` and downdates
``H^-1 -= (H^-1)_:B [(H^-1)_BB]^-1 (H^-1)_B:`` (Frantar and Alistarh 2022). The downdates are kept
as a narrow panel of factor rows and applied to the stored inverses as one matrix product per
:data:`PANEL` columns, and many row groups advance together, so that the work is GEMM rather than
memory traffic; dead columns are squeezed out as they accumulate. Only numpy's BLAS is used in the
loop: scipy ships another copy with its own threads, and the two fight for the cores when they
alternate.
"""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Ints
from onnxprune.recovery.structure import Structure

#: Columns eliminated between two updates of the stored inverses.
PANEL = 32
#: Inverses are compacted once this fraction of their columns is dead.
DEAD_FRACTION = 0.2


class Elimination:
    """State of Q row groups: E stored columns in C' cells of width c; r rows share each mask.

    Attributes:
        ids: original cell at each stored position [Q, C'].
        live: cells not yet eliminated [Q, C'].
        blocked: live cells that must stay (a full N:M bucket, or ``fixed`` ones) [Q, C'].
        weights: current values [Q, r, E].
    """

    def __init__(
        self, inverse: F64, weights: F64, structure: Structure, store: F64 | None = None
    ) -> None:
        """Start from the dense problem.

        Args:
            inverse: H^-1 in the structure's column order [D, D]; not changed.
            weights: optimum [Q, r, D] (``structure.gather`` of the target, or a slice of it).
            structure: cell width, N:M limits and padding; its row count is not used.
            store: memory for the groups' own inverses [>= Q, D * D], reused by the next chunk.
        """
        self.width = structure.width
        self.m = structure.m
        self.room = structure.m - structure.n
        groups, height, size = weights.shape
        cells = size // self.width
        self.rows = np.arange(groups)
        self.weights = weights.copy()  # [Q, r, E]
        self.store = np.empty((groups, size * size)) if store is None else store[:groups]
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
        scores = self.scores()
        scores[self.padding] = -1.0
        scores[~self.live | self.blocked] = np.inf
        return self.remove(np.argmin(scores, axis=1))

    def scores(self) -> F64:
        """Rise of the (un-halved) error if a stored cell went [Q, C']; finite everywhere."""
        groups, height, _ = self.weights.shape
        if self.width == 1:
            square: F64 = np.einsum("qre,qre->qe", self.weights, self.weights)
            return square / self.blocks[:, :, 0, 0]
        w = self.weights.reshape(groups, height, -1, self.width).transpose(0, 2, 3, 1)
        scores: F64 = np.einsum("qecr,qecr->qe", w, np.linalg.solve(self.blocks, w))
        return scores

    def remove(self, pick: Ints) -> tuple[Ints, F64]:
        """Remove the cells at stored positions ``pick`` [Q]; same return as :meth:`eliminate`."""
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
        np.put_along_axis(self.result, columns.reshape(self.rows.size, 1, -1), self.weights, axis=2)
        return self.result

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
