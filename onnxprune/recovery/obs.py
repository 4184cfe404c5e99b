"""ExactOBS: greedy elimination with exact compensation, all sparsity levels in one run.

Frantar and Alistarh, "Optimal Brain Compression" (2022), algorithms 1 and 2: remove the cell whose
removal raises the layer error least, ``1/2 w_B [(H^-1)_BB]^-1 w_B^T``, move the rest of the row to
its new optimum, and downdate ``H^-1``. Cells cover single weights, N:M, blocks and kernels, and
rows that share a mask share one elimination (:class:`~onnxprune.recovery.structure.Structure`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.recovery.elimination import Elimination
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.search import SEARCHES, Request
from onnxprune.recovery.structure import Structure

#: At most 32 row groups advance together, and only while their inverses fit this many bytes.
CHUNK_BYTES = 256 << 20


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
        state = Elimination(inverse, weights[part], structure, store)
        for step in range(steps):
            order[part, step], loss[part, step] = state.eliminate()
        weights[part] = state.full_weights()
    flat = weights.reshape(-1, size)[: structure.rows]
    out = np.zeros(problem.shape)
    real = structure.order >= 0
    out[:, structure.order[real]] = flat[:, real]
    return Trace(structure, order, loss, out)


@SEARCHES.member("exact_obs")
def _search(request: Request) -> Mask:
    """The mask of the trace at the density asked for."""
    return exact_obs(request.problem, request.cells("exact_obs")).mask(request.keep)
