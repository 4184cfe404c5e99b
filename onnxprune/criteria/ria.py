"""RIA (Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method ...", ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import Evidence, Measured, UnitEvidence


def ria_scores(weight: Float64, norms: Float64, *, power: float = 0.5) -> Float64:
    """``(|w_ij| / sum_j |w_ij| + |w_ij| / sum_i |w_ij|) ||x_j||^power``: [R, d].

    Dividing by the row's and the column's total keeps whole channels from being wiped out.

    Args:
        weight: W [R, d].
        norms: l2 norm of every input over the calibration samples [d].
        power: weight of the activations; 0 leaves the data-free relative importance.
    """
    size = np.abs(weight)
    rows = size.sum(axis=1, keepdims=True)
    columns = size.sum(axis=0, keepdims=True)
    share = size / np.where(rows > 0, rows, 1.0) + size / np.where(columns > 0, columns, 1.0)
    scores: Float64 = share * norms**power
    return scores


@CRITERIA.member("ria")
@dataclass(frozen=True)
class RIA(Measured):
    """Relative importance times the root of the input's norm; for a unit the sum over columns."""

    syntax: ClassVar[str] = "ria"
    summary: ClassVar[str] = "weight relative to its row and column, times input (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("ria",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "ria"

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`."""
        return ria_scores(evidence.weight, evidence.norms)

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        return evidence.total(self.weights(evidence.layer).sum(axis=0))
