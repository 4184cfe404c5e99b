"""Geometric median: the filter nearest to all others is the one they can replace.

Source: He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
Acceleration" (FPGM), CVPR 2019, eq. 4-6: the score of a filter is the sum of its Euclidean
distances to the other filters of its layer; the smallest goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import CRITERIA, Criterion, Float32, Float64, Member
from onnxprune.criteria.l1 import L1
from onnxprune.criteria.normalise import as_float32, vote


@CRITERIA.member("gm")
@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """Sum of a unit's distances to the other units of its group, over the ``out`` members.

    Unlike a norm it can drop a large filter that has near copies. Groups without a producing
    weight fall back to L1; :meth:`caveat` says so.
    """

    syntax: ClassVar[str] = "gm"
    summary: ClassVar[str] = "geometric median (FPGM): distance to the other filters of the layer"
    examples: ClassVar[tuple[str, ...]] = ("gm",)

    @property
    def name(self) -> str:
        """See :attr:`Criterion.name`."""
        return "gm"

    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """See :meth:`Criterion.elementwise`: the mean distance to the tensor's other weights.

        One-dimensional, so a sort and prefix sums give all of them: with the values in order, the
        distances of the k-th to those below it sum to ``k * x_k - sum(x_0 .. x_{k-1})``, and
        likewise above.
        """
        del rng
        flat = as_float32(weight).reshape(-1)
        scores = np.full(flat.shape, np.inf, dtype=np.float32)
        at = np.flatnonzero(np.isfinite(flat))
        at = at[np.argsort(flat[at], kind="stable")]
        x = flat[at].astype(np.float64)
        rank = np.arange(x.size)
        through = np.cumsum(x)
        below = (rank + 1) * x - through
        above = (through[-1:] - through) - (x.size - 1 - rank) * x
        scores[at] = np.maximum(below + above, 0.0) / max(1, x.size - 1)
        return scores.reshape(weight.shape)

    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """See :meth:`Criterion.unit`: the summed distances, or L1 without an ``out`` member."""
        if self.caveat(members) is not None:
            return L1().unit(members, rng)
        filters = [member for member in members if member.role == "out"]
        return vote(filters, _summed_distances)

    def caveat(self, members: Sequence[Member] | None) -> str | None:
        """See :meth:`Criterion.caveat`."""
        if members is None or any(member.role == "out" for member in members):
            return None
        return "no weight produces these units, so l1 scores them"


def _summed_distances(filters: Float64) -> Float64:
    """Return the sum of each row's Euclidean distances to all rows; +inf where it is not finite.

    [n, m] -> [n], by |a - b|^2 = |a|^2 + |b|^2 - 2ab around the mean row (a matrix product: n^2 m
    multiplications at full speed). Rounded to nine digits, so that equal filters score equal
    however the matrix product was split.
    """
    scores = np.full(len(filters), np.inf)
    finite = np.isfinite(filters).all(axis=1)
    rows = filters[finite]
    if not len(rows):
        return scores
    rows = rows - rows.mean(axis=0)
    scale = np.abs(rows).max(initial=0.0)
    if scale == 0.0:
        scores[finite] = 0.0
        return scores
    rows /= scale
    energy = np.einsum("ij,ij->i", rows, rows)
    squared = energy[:, None] + energy[None, :] - 2.0 * (rows @ rows.T)
    noise = 1e-13 * energy.max()
    squared[squared < noise] = 0.0
    total = np.sqrt(squared).sum(axis=1)
    scores[finite] = np.round(total / total.max(), 9) * total.max() if total.max() else total
    return scores
