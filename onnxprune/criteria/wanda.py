"""Wanda (Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import Evidence, Measured, UnitEvidence


def wanda_scores(weight: Float64, norms: Float64) -> Float64:
    """``|w_ij| ||x_j||``: scores [R, d] of W [R, d] and the norm of every input [d]."""
    scores: Float64 = np.abs(weight) * norms
    return scores


@CRITERIA.member("wanda")
@dataclass(frozen=True)
class Wanda(Measured):
    """``|w| ||x||``; for a unit the sum over its columns."""

    syntax: ClassVar[str] = "wanda"
    summary: ClassVar[str] = "magnitude times the norm of the input (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("wanda",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "wanda"

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`."""
        return wanda_scores(evidence.weight, evidence.norms)

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        return evidence.total(self.weights(evidence.layer).sum(axis=0))
