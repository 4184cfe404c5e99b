"""BN scale: |gamma| of the batch normalisation behind a channel.

Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.l1 import L1
from onnxprune.criteria.normalise import relative, vote


@CRITERIA.member("bn")
@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """``|gamma|`` of a unit, averaged over its batch norms (each relative to its own mean).

    Where a unit has no scale (no batch norm, or folded into the convolution) it falls back to L1;
    :meth:`caveat` says so.
    """

    syntax: ClassVar[str] = "bn"
    summary: ClassVar[str] = "|gamma| of the batch norm behind a channel; L1 where there is none"
    examples: ClassVar[tuple[str, ...]] = ("bn",)
    needs: ClassVar[frozenset[str]] = frozenset({"bn"})

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "bn"

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: L1, because single weights have no scale."""
        return L1().elementwise(weight, rng)

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: ``|gamma|``, or L1 without one."""
        if self.caveat(members) is not None:
            return L1().unit(members, rng)
        scales = [member for member in members if member.role == "bn_scale"]
        return vote(scales, lambda values: np.abs(values).sum(axis=1))

    def caveat(self, members: Sequence[Member] | None) -> str | None:
        """See :meth:`Criterion.caveat`."""
        if members is None:
            return "single weights have no batch-norm scale, so l1 scores them"
        scales = [member for member in members if member.role == "bn_scale"]
        if not scales:
            return "no batch-norm scale belongs to these units (none, or folded), so l1 scores them"
        if all(relative(np.abs(m.values.astype(np.float64)).sum(axis=1)) is None for m in scales):
            return "all batch-norm scales of these units are zero, so l1 scores them"
        return None
