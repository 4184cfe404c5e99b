"""Criteria that look at activations: what they are given, and what they promise.

They cannot score a tensor by itself. Whoever has samples measures the input of every layer on the
dense network, one layer at a time, and asks :meth:`Measured.weights` or :meth:`Measured.units`;
what comes out travels as plain scores.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import Criterion, Float32, Float64, Member
from onnxprune.criteria.l1 import L1
from onnxprune.criteria.normalise import relative, unit_count
from onnxprune.errors import UsageError

Ints = npt.NDArray[np.int64]
#: Ridge on a Gram matrix before it is inverted, relative to its diagonal.
RIDGE = 1e-3


@dataclass(frozen=True)
class Evidence:
    """One group of one layer: its weights, and moments of the columns it multiplies.

    Attributes:
        weight: W [R, d], d ordered by channel, then kernel position.
        second: ``E[x x^T]`` [d, d].
        mean: ``E[x]`` [d].
        magnitude: ``E|x|`` [d].
        zeros: share of x that is exactly zero [d].
    """

    weight: Float64
    second: Float64
    mean: Float64
    magnitude: Float64
    zeros: Float64

    @property
    def norms(self) -> Float64:
        """Root mean square of every input [d]."""
        found: Float64 = np.sqrt(np.maximum(np.diagonal(self.second), 0.0))
        return found

    @property
    def variance(self) -> Float64:
        """Variance of every input [d]."""
        found: Float64 = np.maximum(np.diagonal(self.second) - self.mean**2, 0.0)
        return found

    @cached_property
    def inverse_diagonal(self) -> Float64:
        """Diagonal of the inverse of the damped second moment [d]; 0 for inputs never active."""
        diagonal = np.maximum(np.diagonal(self.second), 0.0)
        alive = diagonal > 1e-12 * diagonal.max(initial=0.0)
        found = np.zeros(len(diagonal))
        if alive.any():
            scale = np.sqrt(diagonal[alive])
            unit = self.second[np.ix_(alive, alive)] / np.outer(scale, scale)
            unit[np.diag_indices_from(unit)] += RIDGE
            found[alive] = np.diagonal(np.linalg.inv(unit)) / diagonal[alive]
        return found


@dataclass(frozen=True)
class UnitEvidence:
    """A consumer of a group's units.

    Attributes:
        layer: its weights and inputs.
        unit_of: which unit every column belongs to [d], -1 for none.
        units: U.
    """

    layer: Evidence
    unit_of: Ints
    units: int

    def total(self, per_column: Float64) -> Float64:
        """Sum [d] values over each unit's columns [U]."""
        own = self.unit_of >= 0
        found: Float64 = np.zeros(self.units)
        np.add.at(found, self.unit_of[own], per_column[own])
        return found

    def average(self, per_column: Float64) -> Float64:
        """Mean of [d] values over each unit's columns [U]."""
        found: Float64 = self.total(per_column) / np.maximum(
            self.total(np.ones(len(per_column))), 1
        )
        return found

    def shares(self) -> tuple[Float64, Float64]:
        """Return ``A_cc' = E<z_c, z_c'>`` [U, U] and ``b_c = E<z_c, sum of all z>`` [U].

        ``z_c = W_c X_c`` is what unit c gives to the consumer's output; columns of no unit stay.
        """
        weight = self.layer.weight
        mutual = self.layer.second * (weight.T @ weight)
        spread = np.zeros((len(self.unit_of), self.units + 1))
        spread[np.arange(len(self.unit_of)), self.unit_of] = 1.0  # -1 is the last column
        joint = spread.T @ mutual @ spread
        gram = joint[:-1, :-1]
        return gram, gram.sum(axis=1)


class Measured(Criterion):
    """A criterion that needs activations."""

    needs: ClassVar[frozenset[str]] = frozenset({"activations"})

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`; always refused, weights alone say nothing.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"criterion {self.name} looks at activations: give samples with --data, and let every "
            "layer have an input of its own"
        )

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: the mean of what was measured at each consumer.

        Every consumer's scores count relative to their mean. Units that no consumer with
        statistics reads are scored by L1; :meth:`caveat` says so.
        """
        total = np.zeros(unit_count(members))
        votes = 0
        for member in members:
            share = None if member.measured is None else relative(member.measured)
            if share is not None:
                total += share
                votes += 1
        return total / votes if votes else L1().unit(members, rng)

    def caveat(self, members: Sequence[Member] | None) -> str | None:
        """See :meth:`Criterion.caveat`."""
        if members is None or any(m.measured is not None for m in members):
            return None
        return "no consumer's input was measured (give --data), so l1 scores these units"

    @abstractmethod
    def weights(self, evidence: Evidence) -> Float64:
        """Score the weights of one group of a layer [R, d].

        Raises:
            UsageError: the criterion ranks whole units only.
        """

    @abstractmethod
    def units(self, evidence: UnitEvidence) -> Float64:
        """Score the units that a consumer reads [U], not negative."""
