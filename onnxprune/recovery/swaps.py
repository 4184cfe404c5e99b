"""Swap polish: exchange one kept column for one removed column of a row while the error falls.

With ``A = (H_SS)^-1``, ``U = A H_SN``, weights ``w = G_S A``, residual correlations ``r = G_N - w
H_SN`` and Schur diagonals ``s``, removing p and adding j changes a row's error by exactly

    w_p^2 / A_pp - (r_j + w_p U_pj / A_pp)^2 / (s_j + U_pj^2 / A_pp)

(the OBS removal cost and the forward-selection gain after it), so all pairs are judged at once and
the best one is carried out by rank-one updates. Rows that share a mask (4x1 blocks) are judged by
the sum over them. ADMM leaves few such pairs, greedy elimination many.
"""

from __future__ import annotations

import numpy as np

from onnxprune.calibration.blas import side_by_side
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.structure import Structure


def polish(
    problem: Quadratic, mask: Mask, structure: Structure, *, max_swaps: int | None = None
) -> Mask:
    """Return a mask with as many weights in every row that no single swap improves.

    Args:
        problem: the damped layer problem.
        mask: what is kept [R, d], of this structure.
        structure: cells one column wide; with N:M, swaps stay inside their bucket.
        max_swaps: bound per row group; default half its kept columns.

    Raises:
        ValueError: ``structure`` has cells of several columns.
    """
    if structure.width != 1:
        raise ValueError("swaps exchange single columns; this pattern ties several together")
    bucket = None
    real = structure.order >= 0
    if structure.m:
        bucket = np.empty(structure.columns, dtype=np.int64)
        bucket[structure.order[real]] = np.flatnonzero(real) // structure.m
    out: Mask = mask.copy()

    def polished(start: int) -> None:
        rows = slice(start, min(start + structure.height, structure.rows))
        kept = int(mask[start].sum())
        if 0 < kept < mask.shape[1]:
            state = _Rows(problem.gram, problem.cross[rows], mask[start], bucket)
            state.run(max(1, kept // 2) if max_swaps is None else max_swaps)
            out[rows] = False
            out[rows, state.inside] = True

    side_by_side(polished, range(0, structure.rows, structure.height))
    return out


class _Rows:
    """Rows with one support S (``inside``), its complement N (``outside``) and the swept system."""

    def __init__(self, gram: F64, cross: F64, mask: Mask, bucket: Ints | None) -> None:
        self.gram = gram
        self.inside = np.flatnonzero(mask)
        self.outside = np.flatnonzero(~mask)
        self.bucket = bucket
        rows = gram[self.inside]
        coupling = rows[:, self.outside]
        self.inverse = np.linalg.inv(rows[:, self.inside])
        self.u = self.inverse @ coupling
        self.weights = cross[:, self.inside] @ self.inverse  # [r, k]
        self.residual = cross[:, self.outside] - self.weights @ coupling  # [r, n]
        self.schur = np.diagonal(gram)[self.outside] - np.einsum("kn,kn->n", coupling, self.u)
        self.scale = abs(float(np.einsum("rk,rk->", cross[:, self.inside], self.weights)))

    def run(self, max_swaps: int) -> None:
        """Carry out best swaps until none lowers the error by more than rounding."""
        for _ in range(max_swaps):
            leave, enter, change = self._best()
            if change >= -1e-10 * self.scale:
                return
            self._swap(leave, enter)

    def _best(self) -> tuple[int, int, float]:
        """(position in ``inside``, position in ``outside``, change of the error)."""
        pivots = np.diagonal(self.inverse)
        lift = self.weights / pivots
        cost = np.einsum("rk,rk->k", self.weights, lift)
        energy = np.einsum("rn,rn->n", self.residual, self.residual)
        steep = np.einsum("rk,rk->k", lift, lift)
        if self.bucket is None:
            # sum_r (r_rj + l_rp U_pj)^2, multiplied out so that one product covers all rows.
            gain = lift.T @ self.residual
            gain *= 2.0
            gain += self.u * steep[:, None]
            gain *= self.u
            gain += energy
            room = self.u * self.u
            room /= pivots[:, None]
            room += self.schur
            gain /= room
            np.subtract(cost[:, None], gain, out=gain)
            leave, enter = divmod(int(np.argmin(gain)), gain.shape[1])
            return leave, enter, float(gain[leave, enter])
        leaves, enters = self._bucket_pairs()
        if not leaves.size:
            return 0, 0, 0.0
        u = self.u[leaves, enters]
        crossing = np.einsum("rp,rp->p", lift[:, leaves], self.residual[:, enters])
        gains = energy[enters] + u * (2.0 * crossing + u * steep[leaves])
        change = cost[leaves] - gains / (self.schur[enters] + u * u / pivots[leaves])
        best = int(np.argmin(change))
        return int(leaves[best]), int(enters[best]), float(change[best])

    def _bucket_pairs(self) -> tuple[Ints, Ints]:
        """All (inside, outside) positions that share a bucket."""
        assert self.bucket is not None
        by_bucket = np.argsort(self.bucket[self.inside], kind="stable")
        sorted_buckets = self.bucket[self.inside][by_bucket]
        wanted = self.bucket[self.outside]
        first = np.searchsorted(sorted_buckets, wanted, side="left")
        counts = np.searchsorted(sorted_buckets, wanted, side="right") - first
        enters = np.repeat(np.arange(wanted.size), counts)
        offsets = np.arange(enters.size) - np.repeat(np.cumsum(counts) - counts, counts)
        return by_bucket[np.repeat(first, counts) + offsets], enters

    def _swap(self, leave: int, enter: int) -> None:
        """Sweep ``leave`` out of the support and ``enter`` into it; they trade slots."""
        pivot = float(self.inverse[leave, leave])
        column = self.inverse[:, leave] / pivot
        weight = self.weights[:, leave].copy()
        row = self.u[leave].copy()
        # Out: the inverse shrinks, everything outside gains room.
        self.inverse -= np.outer(column, self.inverse[leave])
        self.u -= np.outer(column, row)
        self.residual += np.outer(weight / pivot, row)
        self.schur += row * row / pivot
        self.weights -= np.outer(weight, column)
        # In: judged against the support without ``leave``.
        step = self.u[:, enter].copy()
        step[leave] = 0.0
        room = float(self.schur[enter])
        value = self.residual[:, enter] / room
        old, new = int(self.inside[leave]), int(self.outside[enter])
        # The column left behind becomes an outside one, in the slot that ``enter`` gives up.
        self.u[:, enter] = -column
        self.u[leave] = 0.0
        self.residual[:, enter] = weight / pivot
        self.schur[enter] = 1.0 / pivot
        self.inside[leave], self.outside[enter] = new, old
        without = self.inside.copy()
        without[leave] = old  # its row of u is zero, so what the Gram holds there does not matter
        tie = self.gram[new, self.outside] - self.gram[new, without] @ self.u
        self.u -= np.outer(step, tie / room)
        self.u[leave] = tie / room
        self.residual -= np.outer(value, tie)
        self.schur -= tie * tie / room
        self.weights -= np.outer(value, step)
        self.weights[:, leave] = value
        self.inverse[leave] = 0.0
        self.inverse[:, leave] = 0.0
        self.inverse += np.outer(step, step / room)
        self.inverse[leave] = self.inverse[:, leave] = -step / room
        self.inverse[leave, leave] = 1.0 / room
