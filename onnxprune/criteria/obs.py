"""OBD and OBS with the layer's Hessian ``H = E[x x^T]``.

LeCun et al. (1990) and Hassibi and Stork (1993), applied per layer: the rise of
``1/2 E|y - W x|^2`` when one weight goes, without and with the others moving to make up for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import RIDGE, Evidence, Measured, UnitEvidence


@CRITERIA.member("obd")
@dataclass(frozen=True)
class OBD(Measured):
    """``1/2 w^2 H_jj``; for a unit what its columns give to the outputs, ``1/2 E|W_c x_c|^2``."""

    syntax: ClassVar[str] = "obd"
    summary: ClassVar[str] = "optimal brain damage with the layer's Hessian (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("obd",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "obd"

    @property
    def degree(self) -> float:
        """See :attr:`Criterion.degree`."""
        return 2.0

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`."""
        found: Float64 = 0.5 * evidence.weight**2 * np.diagonal(evidence.second)
        return found

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        return 0.5 * np.maximum(np.diagonal(evidence.shares()[0]), 0.0)


@CRITERIA.member("obs")
@dataclass(frozen=True)
class OBS(Measured):
    """``1/2 w^2 / (H^-1)_jj``; for a unit ``1/2 tr(W_c ((H^-1)_cc)^-1 W_c^T)``."""

    syntax: ClassVar[str] = "obs"
    summary: ClassVar[str] = "optimal brain surgeon with the layer's Hessian (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("obs",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "obs"

    @property
    def degree(self) -> float:
        """See :attr:`Criterion.degree`."""
        return 2.0

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`."""
        inverse = evidence.inverse_diagonal
        room = np.where(inverse > 0, 1.0 / np.where(inverse > 0, inverse, 1.0), 0.0)
        found: Float64 = 0.5 * evidence.weight**2 * room
        return found

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        layer = evidence.layer
        hessian = layer.second.copy()
        diagonal = np.diagonal(hessian)
        floor = 1e-9 * max(float(diagonal.max(initial=0.0)), 1e-30)
        hessian[np.diag_indices_from(hessian)] += RIDGE * diagonal + floor
        inverse = np.linalg.inv(hessian)
        found = np.zeros(evidence.units)
        for unit in range(evidence.units):
            at = np.flatnonzero(evidence.unit_of == unit)
            if at.size:
                part = layer.weight[:, at]
                solved = np.linalg.solve(inverse[np.ix_(at, at)], part.T)
                found[unit] = max(0.5 * float(np.einsum("rc,cr->", part, solved)), 0.0)
        return found
