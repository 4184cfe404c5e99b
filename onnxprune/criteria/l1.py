"""L1: sum of magnitudes (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.normalise import as_float32, nan_to_inf, vote


@CRITERIA.member("l1")
@dataclass(frozen=True)
class L1(Criterion):
    """``|w|`` of a weight; the sum of ``|w|`` of a unit's slice, averaged over its members."""

    syntax: ClassVar[str] = "l1"
    summary: ClassVar[str] = "magnitude: |w|, summed over a unit's members"
    examples: ClassVar[tuple[str, ...]] = ("l1",)
    local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "l1"

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: ``|w|``."""
        del rng
        return nan_to_inf(np.abs(as_float32(weight)))

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: the members' sums of ``|w|``, see ``normalise``."""
        del rng
        return vote(members, lambda values: np.abs(values).sum(axis=1))
