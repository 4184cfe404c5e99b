"""L2: squared magnitudes; for a unit the Euclidean norm of its slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.normalise import as_float32, nan_to_inf, vote


@CRITERIA.member("l2")
@dataclass(frozen=True)
class L2(Criterion):
    """``w ** 2`` of a weight; ``sqrt(sum w ** 2)`` of a unit's slice, averaged over its members.

    For single weights the order is that of L1; it differs where weights are summed: in blocks and
    in units, where one large weight counts for more than several small ones.
    """

    syntax: ClassVar[str] = "l2"
    summary: ClassVar[str] = "energy: w^2; for a unit the Euclidean norm over its members"
    examples: ClassVar[tuple[str, ...]] = ("l2",)
    local: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "l2"

    @property
    def degree(self) -> float:
        """See :attr:`Criterion.degree`."""
        return 2.0

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: ``w ** 2``."""
        del rng
        return nan_to_inf(np.square(as_float32(weight)))

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: the members' Euclidean norms, see ``normalise``."""
        del rng
        return vote(members, lambda values: np.linalg.norm(values, axis=1))
