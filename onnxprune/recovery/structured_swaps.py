"""Swap search over units: exchange a kept unit for a removed one while the summed error falls.

With ``A = (H_SS)^-1``, ``U = A H_SN``, ``r = G_N - W_S H_SN`` and Schur blocks ``s``, removing
unit p and adding unit j changes a consumer's error by exactly

    tr(W_p A_pp^-1 W_p^T) - tr(r' s'^-1 r'^T),   r' = r_j + W_p A_pp^-1 U_pj,
                                                 s' = s_j + U_pj^T A_pp^-1 U_pj

(methods.md 1.5, local search, with the interaction of the two moves kept).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.recovery.problem import F64, Ints, Mask
from onnxprune.recovery.structured import Consumer

#: Kept units whose removal is cheapest that are tried against every removed one.
CANDIDATES = 24


def swap_units(
    consumers: Sequence[Consumer],
    kept: Mask,
    *,
    frozen: Mask | None = None,
    max_swaps: int = 32,
    candidates: int = CANDIDATES,
) -> Mask:
    """Return units [U] of the same number whose summed error after refit is no higher.

    Args:
        consumers: every layer that reads the units.
        kept: units that stay at the start [U].
        frozen: units that may not be exchanged [U].
        max_swaps: upper bound on exchanges.
        candidates: how many of the cheapest kept units are tried in each round.
    """
    out: Mask = kept.copy()
    fixed = np.zeros(kept.shape, dtype=np.bool_) if frozen is None else frozen
    for _ in range(max_swaps):
        leaving = np.flatnonzero(out & ~fixed)
        entering = np.flatnonzero(~out & ~fixed)
        if not leaving.size or not entering.size:
            break
        states = [_State(consumer, out) for consumer in consumers]
        costs = np.sum([[s.cost(int(p)) for p in leaving] for s in states], axis=0)
        leaving = leaving[np.argsort(costs, kind="stable")[:candidates]]
        change = np.sum([s.changes(leaving, entering) for s in states], axis=0)
        best, new = divmod(int(np.argmin(change)), entering.size)
        scale = sum(s.explained for s in states)
        if change[best, new] >= -1e-10 * scale:
            break
        out[leaving[best]], out[entering[new]] = False, True
    return out


class _State:
    """One consumer's solved system for the current kept units."""

    def __init__(self, consumer: Consumer, kept: Mask) -> None:
        gram, cross = consumer.problem.gram, consumer.problem.cross
        self.price = consumer.price
        unit_of = consumer.unit_of
        columns = consumer.column_mask(kept)
        inside, outside = np.flatnonzero(columns), np.flatnonzero(~columns)
        rows = gram[inside]
        coupling = rows[:, outside]
        self.inverse = np.linalg.inv(rows[:, inside])
        self.u = self.inverse @ coupling
        self.weights = cross[:, inside] @ self.inverse  # [R, k]
        self.residual = cross[:, outside] - self.weights @ coupling  # [R, n]
        self.schur = gram[outside][:, outside] - coupling.T @ self.u  # [n, n]
        self.explained = self.price * float(np.einsum("rk,rk->", self.weights, cross[:, inside]))
        self.slots = _members(unit_of[inside])
        self.gone = _members(unit_of[outside])

    def cost(self, unit: int) -> float:
        """Weighted rise of the error when the kept ``unit`` leaves."""
        block = self.slots.get(unit)
        if block is None:
            return 0.0
        weights = self.weights[:, block]
        lifted = np.linalg.solve(self.inverse[np.ix_(block, block)], weights.T)
        return self.price * float(np.einsum("rk,kr->", weights, lifted))

    def changes(self, leaving: Ints, entering: Ints) -> F64:
        """Weighted change of the error for every (leaving, entering) pair [a, b]."""
        out = np.zeros((leaving.size, entering.size))
        for row, unit in enumerate(leaving):
            block = self.slots.get(int(unit))
            residual, schur = self.residual, self.schur
            if block is not None:
                out[row] = self.cost(int(unit))
                weights, u = self.weights[:, block], self.u[block]
                lifted = np.linalg.solve(self.inverse[np.ix_(block, block)], u)  # A_pp^-1 U_p
                residual = residual + weights @ lifted
            for column, other in enumerate(entering):
                target = self.gone.get(int(other))
                if target is None:
                    continue
                room = schur[np.ix_(target, target)]
                if block is not None:
                    room = room + u[:, target].T @ lifted[:, target]
                right = residual[:, target]
                gain = np.einsum("rk,kr->", right, np.linalg.solve(room, right.T))
                out[row, column] -= self.price * float(gain)
        return out


def _members(unit_of: Ints) -> dict[int, Ints]:
    """Positions of every unit (negative numbers left out)."""
    order = np.argsort(unit_of, kind="stable")
    units, starts = np.unique(unit_of[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {int(u): part for u, part in zip(units, parts, strict=True) if u >= 0}
