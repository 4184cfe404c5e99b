"""Lp: the p-th power of magnitudes, for any p > 0."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.normalise import as_float32, nan_to_inf, vote
from onnxprune.errors import UsageError

_FORM = re.compile(r"lp(?::(.*))?")


@CRITERIA.member("lp")
@dataclass(frozen=True)
class Lp(Criterion):
    """``|w| ** p`` of a weight; ``(sum |w| ** p) ** (1 / p)`` of a unit's slice.

    Small p counts how many weights are not small, large p looks at the largest only.
    """

    p: float
    syntax: ClassVar[str] = "lp:P"
    summary: ClassVar[str] = "|w|^p for any p > 0, e.g. lp:1.5"
    examples: ClassVar[tuple[str, ...]] = ("lp:1.5", "lp:0.5", "lp:4")
    local: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse exponents for which larger weights would not score higher."""
        if not (self.p > 0 and math.isfinite(self.p)):
            raise UsageError(f"criterion lp:{self.p:g} cannot be meant: p is a number above 0")

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return f"lp:{self.p:g}"

    @property
    def degree(self) -> float:
        """See :attr:`Criterion.degree`."""
        return self.p

    @classmethod
    def parse(cls, text: str) -> Criterion | None:
        """See :meth:`Criterion.parse`."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        try:
            return cls(float(found[1]))
        except (TypeError, ValueError):
            raise UsageError(
                f"criterion {text!r} lacks its exponent: write lp:P with P above 0, e.g. lp:1.5"
            ) from None

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: ``|w| ** p``."""
        del rng
        scores = np.abs(as_float32(weight))
        with np.errstate(over="ignore"):
            np.power(scores, np.float32(self.p), out=scores)
        return nan_to_inf(scores)

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: the members' p-norms, see ``normalise``."""
        del rng
        return vote(members, self._norm)

    def _norm(self, values: Float64) -> Float64:
        """Return the p-norm of each row, scaled by the row's largest so that it cannot overflow."""
        size = np.abs(values)
        largest = size.max(axis=1, initial=0.0, keepdims=True)
        scale = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        norms: Float64 = scale[:, 0] * ((size / scale) ** self.p).sum(axis=1) ** (1 / self.p)
        return norms
