"""Masks that are searched as a whole: ADMM, ExactOBS, SparseGPT.

They give no scores that could be compared over layers; with samples, reconstruction runs them layer
by layer. Where scores are needed all the same (to divide weights over layers, or with ``recover``
off) those of OBS stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxprune.criteria.base import CRITERIA
from onnxprune.criteria.obs import OBS


@CRITERIA.member("alps")
@dataclass(frozen=True)
class Alps(OBS):
    """ADMM on the layer's least-squares problem (Meng et al., 2024)."""

    syntax: ClassVar[str] = "alps"
    summary: ClassVar[str] = "mask searched by ADMM, then exact least squares (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("alps",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "alps"


@CRITERIA.member("exact-obs")
@dataclass(frozen=True)
class ExactObs(OBS):
    """Greedy exact elimination, row by row (Frantar and Alistarh, "OBC", 2022)."""

    syntax: ClassVar[str] = "exact-obs"
    summary: ClassVar[str] = "mask searched by exact greedy elimination, OBC (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("exact-obs",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "exact-obs"


@CRITERIA.member("sparsegpt")
@dataclass(frozen=True)
class SparseGpt(OBS):
    """Column by column with one inverse for all rows (Frantar and Alistarh, 2023)."""

    syntax: ClassVar[str] = "sparsegpt"
    summary: ClassVar[str] = "mask searched column by column, SparseGPT (needs --data)"
    examples: ClassVar[tuple[str, ...]] = ("sparsegpt",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "sparsegpt"
