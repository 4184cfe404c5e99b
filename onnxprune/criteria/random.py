"""Random scores: the baseline every criterion has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.normalise import unit_count


@CRITERIA.member("random")
@dataclass(frozen=True)
class Random(Criterion):
    """Uniform random numbers from the generator of the call.

    Hand one seeded generator through all calls of a run, in a fixed order; without a generator
    every call starts from seed 0.
    """

    syntax: ClassVar[str] = "random"
    summary: ClassVar[str] = "random, from the seed of the run: the baseline"
    examples: ClassVar[tuple[str, ...]] = ("random",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "random"

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: uniform in [0, 1)."""
        return _generator(rng).random(weight.shape, dtype=np.float32)

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: uniform, scaled to mean 1."""
        scores = _generator(rng).random(unit_count(members)) + np.finfo(np.float64).tiny
        result: Float64 = scores / scores.mean() if scores.size else scores
        return result


def _generator(rng: np.random.Generator | None) -> np.random.Generator:
    return np.random.default_rng(0) if rng is None else rng
