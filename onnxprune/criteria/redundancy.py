"""Redundancy: what of a unit's activation the other units cannot say.

The conditional variance ``1 / (C^-1)_uu`` of unit u given all others, with C the covariance of the
units' activations: zero for a unit that is a linear combination of others, however large it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import RIDGE, Evidence, Measured, UnitEvidence


@CRITERIA.member("redundancy")
@dataclass(frozen=True)
class Redundancy(Measured):
    """Variance that others do not explain, times the squared weights that read it."""

    syntax: ClassVar[str] = "redundancy"
    summary: ClassVar[str] = "variance that the other inputs do not explain (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("redundancy",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "redundancy"

    @property
    def degree(self) -> float:
        """See :attr:`Criterion.degree`."""
        return 2.0

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`: ``w^2 / (C^-1)_jj``."""
        found: Float64 = evidence.weight**2 * _conditional(
            evidence.second - np.outer(evidence.mean, evidence.mean)
        )
        return found

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`: over the sums of each unit's columns."""
        layer = evidence.layer
        centred = layer.second - np.outer(layer.mean, layer.mean)
        spread = np.zeros((len(evidence.unit_of), evidence.units))
        own = np.flatnonzero(evidence.unit_of >= 0)
        spread[own, evidence.unit_of[own]] = 1.0
        spread /= np.maximum(spread.sum(axis=0), 1.0)
        strength = evidence.total((layer.weight**2).sum(axis=0))
        return _conditional(spread.T @ centred @ spread) * strength


def _conditional(covariance: Float64) -> Float64:
    """``1 / (C^-1)_ii``, with a small ridge; 0 where an input never varies."""
    diagonal = np.maximum(np.diagonal(covariance), 0.0)
    alive = diagonal > 1e-12 * diagonal.max(initial=0.0)
    found = np.zeros(len(diagonal))
    if alive.any():
        scale = np.sqrt(diagonal[alive])
        unit = covariance[np.ix_(alive, alive)] / np.outer(scale, scale)
        unit[np.diag_indices_from(unit)] += RIDGE
        found[alive] = diagonal[alive] / np.diagonal(np.linalg.inv(unit))
    return found
