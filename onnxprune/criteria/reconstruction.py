"""Units chosen by how well the consumers' outputs can do without them: ThiNet and LASSO.

Luo, Wu and Lin, "ThiNet" (2017): greedily drop the unit whose loss, together with those already
gone, disturbs the outputs least. He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep
Neural Networks" (2017): one coefficient a unit under an l1 penalty; the first to die go first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import Evidence, Ints, Measured, UnitEvidence
from onnxprune.errors import UsageError

#: Penalties of the LASSO path, from the one that leaves nothing down, and the last relative to it.
PATH, LAST = 60, 1e-4


@dataclass(frozen=True)
class _Units(Measured):
    """A criterion that ranks whole units."""

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return self.syntax

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`; always refused.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"criterion {self.name} ranks whole channels; use it with --pattern channel"
        )


@CRITERIA.member("thinet")
@dataclass(frozen=True)
class ThiNet(_Units):
    """The step at which greedy removal takes a unit."""

    syntax: ClassVar[str] = "thinet"
    summary: ClassVar[str] = "greedy least error of the consumers' outputs (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("thinet",)

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        order, _ = greedy_order(*evidence.shares())
        found = np.zeros(evidence.units)
        found[order] = 1.0 + np.arange(len(order))
        return found


@CRITERIA.member("lasso")
@dataclass(frozen=True)
class Lasso(_Units):
    """The largest penalty under which a unit's coefficient survives, relative to the largest."""

    syntax: ClassVar[str] = "lasso"
    summary: ClassVar[str] = "order in which an l1 penalty on the units kills them (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("lasso",)

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        gram, right = evidence.shares()
        top = float(np.abs(right).max(initial=0.0))
        found, beta = np.zeros(evidence.units), np.zeros(evidence.units)
        if top <= 0:
            return found
        for penalty in np.geomspace(1.0, LAST, PATH):
            beta = coordinate_descent(gram, right, penalty * top, start=beta)
            found = np.where((found == 0) & (beta != 0), penalty, found)
        # Those that only the end of the path would bring are told apart by their energy.
        energy = np.maximum(np.diagonal(gram), 0.0)
        late = LAST * energy / max(float(energy.max(initial=0.0)), 1e-300)
        result: Float64 = np.where(found == 0, 0.5 * late, found)
        return result


def greedy_order(gram: Float64, right: Float64, steps: int | None = None) -> tuple[Ints, Float64]:
    """Order in which units leave, and the squared error each adds.

    Args:
        gram: ``<z_c, z_c'>`` [U, U] of the units' shares of the outputs.
        right: ``<z_c, T>`` [U] with the target.
        steps: units that leave; all when None.
    """
    count = len(right) if steps is None else steps
    alive = np.ones(len(right), dtype=np.bool_)
    order, loss = np.zeros(count, dtype=np.int64), np.zeros(count)
    for step in range(count):
        # ||T - sum over S||^2 after c leaves S, minus before.
        change = 2.0 * (right - gram @ alive) + np.diagonal(gram)
        change[~alive] = np.inf
        unit = int(np.argmin(change))
        order[step], loss[step] = unit, change[unit]
        alive[unit] = False
    return order, loss


def coordinate_descent(
    gram: Float64,
    right: Float64,
    penalty: float,
    *,
    start: Float64 | None = None,
    tolerance: float = 1e-7,
    max_sweeps: int = 500,
) -> Float64:
    """Minimise ``1/2 beta^T A beta - b^T beta + penalty |beta|_1``.

    Args:
        gram: A [U, U], positive semi-definite.
        right: b [U].
        penalty: the l1 weight.
        start: first guess [U], default zero.
        tolerance: stop when no coefficient moves its share ``|d beta| sqrt(A_cc)`` by more than
            this times the largest share.
        max_sweeps: passes over all coefficients.
    """
    beta = np.zeros(right.shape) if start is None else start.copy()
    diagonal = np.diagonal(gram).copy()
    norms = np.sqrt(np.maximum(diagonal, 0.0))
    slope = right - gram @ beta
    for _ in range(max_sweeps):
        largest = 0.0
        for c in range(beta.size):
            if diagonal[c] <= 0.0:
                beta[c] = 0.0
                continue
            pull = slope[c] + diagonal[c] * beta[c]
            new = np.sign(pull) * max(abs(pull) - penalty, 0.0) / diagonal[c]
            move = new - beta[c]
            if move != 0.0:
                slope -= move * gram[c]
                beta[c] = new
                largest = max(largest, abs(move) * norms[c])
        if largest <= tolerance * max(float((np.abs(beta) * norms).max(initial=0.0)), 1e-300):
            break
    return beta
