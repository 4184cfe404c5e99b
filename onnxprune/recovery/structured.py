"""Closed-form structured OBS: which coupled units go, seen by all consumers at once.

A unit is a channel, a head or a hidden column; in every consumer l of the tensor it owns a block
B of columns of ``W_l``. Its price is the rise of the consumers' errors when it goes and everything
that stays is re-solved, ``sum_l a_l 1/2 tr(W_B [(H^-1)_BB]^-1 W_B^T)`` with ``a_l = 1 / ||T_l||^2``
(methods.md 1.5; the family of OSSCAR, Meng et al. 2024, and ZipLM, Kurtic et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.recovery.elimination import Elimination
from onnxprune.recovery.least_squares import solve_on_mask
from onnxprune.recovery.problem import F64, Ints, Mask, Quadratic
from onnxprune.recovery.structure import Structure


@dataclass(frozen=True)
class Consumer:
    """One layer that reads the coupled units.

    Attributes:
        problem: its damped layer problem; symmetric, dense-target or residual-aware alike.
        unit_of: unit of each input column [d]; -1 where the column is not for removal.
        importance: a_l; None for one over the energy of its best output.
    """

    problem: Quadratic
    unit_of: Ints
    importance: float | None = None

    @property
    def price(self) -> float:
        """The factor a_l that makes this consumer's error comparable with the others'."""
        if self.importance is not None:
            return self.importance
        energy = self.problem.energy
        return 1.0 / energy if energy > 0 else 0.0

    def column_mask(self, kept: Mask) -> Mask:
        """Columns that stay [d] when the units ``kept`` [U] stay."""
        return np.where(self.unit_of >= 0, kept[self.unit_of], True)

    def refit(self, kept: Mask) -> F64:
        """Best weights [R, d] on the kept units, zero on the others: ``W_S = G_S H_SS^-1``."""
        columns = self.column_mask(kept)
        return solve_on_mask(self.problem, np.tile(columns, (self.problem.shape[0], 1)))

    def error(self, kept: Mask) -> float:
        """Weighted error after the refit, ``a_l tr((B - B*) H (B - B*)^T)``."""
        return self.price * self.problem.excess(self.refit(kept))


@dataclass(frozen=True)
class RemovalTrace:
    """Units in the order they left.

    Attributes:
        order: unit removed at each step [S].
        loss: rise of the summed weighted error at each step [S].
    """

    order: Ints
    loss: F64
    units: int

    def kept(self, keep: int) -> Mask:
        """Mask of the units that stay [U] when ``keep`` do.

        Raises:
            UsageError: the trace does not reach that far.
        """
        gone = self.units - keep
        if not 0 <= gone <= self.order.size:
            raise UsageError(
                f"asked to keep {keep} of {self.units} units, but only {self.order.size} were "
                "removed in this trace: run it to fewer units"
            )
        mask = np.ones(self.units, dtype=np.bool_)
        mask[self.order[:gone]] = False
        return mask


def total_error(consumers: Sequence[Consumer], kept: Mask) -> float:
    """Summed weighted error of all consumers after refit on ``kept`` [U]."""
    return sum(consumer.error(kept) for consumer in consumers)


def structured_obs(
    consumers: Sequence[Consumer], units: int, *, least: int = 0, frozen: Mask | None = None
) -> RemovalTrace:
    """Remove units greedily until ``least`` stay.

    Args:
        consumers: every layer that reads the units; at least one.
        units: number of units U.
        least: units that stay at the end.
        frozen: units that must stay [U].

    Raises:
        DataError: no consumer, or a unit number outside 0..units-1.
    """
    if not consumers:
        raise DataError("structured selection needs at least one consumer with statistics")
    views = [_View(consumer, units) for consumer in consumers]
    alive = np.ones(units, dtype=np.bool_) if frozen is None else ~frozen
    steps = max(0, min(units - least, int(alive.sum())))
    order = np.zeros(steps, dtype=np.int64)
    loss = np.zeros(steps)
    for step in range(steps):
        scores = np.zeros(units)
        for view in views:
            view.add_scores(scores)
        scores[~alive] = np.inf
        unit = int(np.argmin(scores))
        order[step], loss[step] = unit, scores[unit]
        alive[unit] = False
        for view in views:
            view.remove(unit)
    return RemovalTrace(order, loss, units)


class _View:
    """One consumer as an elimination whose cells 0..U-1 are the units, all rows sharing them."""

    def __init__(self, consumer: Consumer, units: int) -> None:
        problem, unit_of = consumer.problem, consumer.unit_of
        if unit_of.shape != (problem.shape[1],) or (unit_of >= units).any():
            raise DataError(
                f"unit numbers {unit_of.shape} do not fit {problem.shape[1]} columns and "
                f"{units} units"
            )
        counts = np.bincount(unit_of[unit_of >= 0], minlength=units)
        width = max(1, int(counts.max(initial=1)))
        members = np.flatnonzero(unit_of >= 0)
        members = members[np.argsort(unit_of[members], kind="stable")]
        slots = np.full((units, width), -1, dtype=np.int64)
        slots[np.arange(width) < counts[:, None]] = members
        fixed = np.flatnonzero(unit_of < 0)
        spare = np.full((-(-fixed.size // width), width), -1, dtype=np.int64)
        spare.ravel()[: fixed.size] = fixed
        order = np.concatenate([slots, spare]).ravel()
        rows, columns = problem.shape
        structure = Structure(rows, columns, order, height=rows, width=width)
        self.units = units
        self.price = consumer.price
        self.state = Elimination(
            structure.gather_square(problem.inverse), structure.gather(problem.target), structure
        )

    def add_scores(self, total: F64) -> None:
        """Add this consumer's weighted price of every live unit to ``total`` [U]."""
        ids = self.state.ids[0]
        usable = self.state.live[0] & (ids < self.units)
        total[ids[usable]] += self.price * self.state.scores()[0, usable]

    def remove(self, unit: int) -> None:
        """Eliminate ``unit``."""
        self.state.remove(np.flatnonzero(self.state.ids[0] == unit)[:1])
