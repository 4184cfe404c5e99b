"""Swap polish: exchange one kept weight for one removed weight of a row while the error falls.

With ``A = (H_SS)^-1``, ``U = A H_SN``, the row's weights ``w = G_S A``, residual correlations ``r =
G_N - w H_SN`` and Schur diagonals ``s``, removing p and adding j changes the row's error by exactly

    w_p^2 / A_pp - (r_j + w_p U_pj / A_pp)^2 / (s_j + U_pj^2 / A_pp)

(the OBS removal cost and the forward-selection gain after it), so all pairs are judged at once and
the best one is carried out by rank-one updates. ADMM leaves few such pairs, greedy elimination
many.
"""

from __future__ import annotations

import numpy as np

from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.structure import Structure


def polish(
    problem: Quadratic, mask: Mask, structure: Structure, *, max_swaps: int | None = None
) -> Mask:
    """Return a mask with the same number of weights per row that no single swap improves.

    Args:
        problem: the damped layer problem.
        mask: what is kept [R, d].
        structure: cells of one weight; with N:M, swaps stay inside their bucket.
        max_swaps: bound per row; default half its kept weights.

    Raises:
        ValueError: ``structure`` has cells of several weights.
    """
    if structure.height != 1 or structure.width != 1:
        raise ValueError("swaps exchange single weights; this pattern ties several together")
    bucket = None
    if structure.m:
        bucket = np.empty(structure.columns, dtype=np.int64)
        real = structure.order >= 0
        bucket[structure.order[real]] = np.flatnonzero(real) // structure.m
    out: Mask = mask.copy()
    for row in range(mask.shape[0]):
        kept = int(mask[row].sum())
        if 0 < kept < mask.shape[1]:
            state = _Row(problem.gram, problem.cross[row], mask[row], bucket)
            state.run(max(1, kept // 2) if max_swaps is None else max_swaps)
            out[row] = False
            out[row, state.inside] = True
    return out


class _Row:
    """One row's support S (``inside``), its complement N (``outside``) and their swept system."""

    def __init__(self, gram: F64, cross: F64, mask: Mask, bucket: Ints | None) -> None:
        self.gram = gram
        self.inside = np.flatnonzero(mask)
        self.outside = np.flatnonzero(~mask)
        self.bucket = bucket
        rows = gram[self.inside]
        coupling = rows[:, self.outside]
        self.inverse = np.linalg.inv(rows[:, self.inside])
        self.u = self.inverse @ coupling
        self.weights = self.inverse @ cross[self.inside]
        self.residual = cross[self.outside] - self.weights @ coupling
        self.schur = np.diagonal(gram)[self.outside] - np.einsum("kn,kn->n", coupling, self.u)
        self.scale = abs(float(cross[self.inside] @ self.weights))

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
        if self.bucket is None:
            gain = self.u * lift[:, None]
            gain += self.residual
            gain *= gain
            room = self.u * self.u
            room /= pivots[:, None]
            room += self.schur
            gain /= room
            np.subtract((self.weights * lift)[:, None], gain, out=gain)
            leave, enter = divmod(int(np.argmin(gain)), gain.shape[1])
            return leave, enter, float(gain[leave, enter])
        leaves, enters = self._bucket_pairs()
        u = self.u[leaves, enters]
        change = (self.weights * lift)[leaves] - (self.residual[enters] + lift[leaves] * u) ** 2 / (
            self.schur[enters] + u * u / pivots[leaves]
        )
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
        weight = float(self.weights[leave])
        row = self.u[leave].copy()
        # Out: the inverse shrinks, everything outside gains room.
        self.inverse -= np.outer(column, self.inverse[leave])
        self.u -= np.outer(column, row)
        self.residual += (weight / pivot) * row
        self.schur += row * row / pivot
        self.weights -= weight * column
        # In: judged against the support without ``leave``.
        step = self.u[:, enter].copy()
        step[leave] = 0.0
        room = float(self.schur[enter])
        value = float(self.residual[enter]) / room
        old, new = int(self.inside[leave]), int(self.outside[enter])
        # The left-behind weight as an outside one, in the slot that ``enter`` gives up.
        self.u[:, enter] = -column
        self.u[leave] = 0.0
        self.residual[enter] = weight / pivot
        self.schur[enter] = 1.0 / pivot
        self.inside[leave], self.outside[enter] = new, old
        without = self.inside.copy()
        without[leave] = old  # its row of u is zero, so what the Gram holds there does not matter
        tie = self.gram[new, self.outside] - self.gram[new, without] @ self.u
        self.u -= np.outer(step, tie / room)
        self.u[leave] = tie / room
        self.residual -= value * tie
        self.schur -= tie * tie / room
        self.weights -= value * step
        self.weights[leave] = value
        self.inverse[leave] = 0.0
        self.inverse[:, leave] = 0.0
        self.inverse += np.outer(step, step / room)
        self.inverse[leave] = self.inverse[:, leave] = -step / room
        self.inverse[leave, leave] = 1.0 / room
