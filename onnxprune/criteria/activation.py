"""How large, how lively and how often silent a unit is.

Mean and variance of activations are Molchanov et al. (2017), section 2.2; the average percentage of
zeros is Hu et al., "Network Trimming" (2016), eq. 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.criteria.base import CRITERIA, Float64
from onnxprune.criteria.measured import Evidence, Measured, UnitEvidence


@dataclass(frozen=True)
class _Activity(Measured):
    """A score of inputs [d]: a weight counts ``|w|`` times it, a unit its mean over columns."""

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return self.syntax

    def inputs(self, evidence: Evidence) -> Float64:
        """Score every input [d]."""
        raise NotImplementedError

    def weights(self, evidence: Evidence) -> Float64:
        """See :meth:`Measured.weights`."""
        found: Float64 = np.abs(evidence.weight) * self.inputs(evidence)
        return found

    def units(self, evidence: UnitEvidence) -> Float64:
        """See :meth:`Measured.units`."""
        return evidence.average(self.inputs(evidence.layer))


@CRITERIA.member("activation-mean")
@dataclass(frozen=True)
class ActivationMean(_Activity):
    """``E|x|``."""

    syntax: ClassVar[str] = "activation-mean"
    summary: ClassVar[str] = "mean absolute activation (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("activation-mean",)

    def inputs(self, evidence: Evidence) -> Float64:
        """``E|x|`` [d]."""
        return evidence.magnitude


@CRITERIA.member("activation-variance")
@dataclass(frozen=True)
class ActivationVariance(_Activity):
    """The standard deviation of x: a unit that never changes can go into the bias."""

    syntax: ClassVar[str] = "activation-variance"
    summary: ClassVar[str] = "standard deviation of the activation (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("activation-variance",)

    def inputs(self, evidence: Evidence) -> Float64:
        """``sqrt(Var x)`` [d]."""
        found: Float64 = np.sqrt(evidence.variance)
        return found


@CRITERIA.member("apoz")
@dataclass(frozen=True)
class APoZ(_Activity):
    """One minus the average percentage of zeros."""

    syntax: ClassVar[str] = "apoz"
    summary: ClassVar[str] = "share of activations that are not zero, 1 - APoZ (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("apoz",)

    def inputs(self, evidence: Evidence) -> Float64:
        """``1 - P(x = 0)`` [d]."""
        return 1.0 - evidence.zeros
