"""LAMP: layer-adaptive magnitude, a global threshold that needs no tuning between layers.

Source: Lee et al., "Layer-Adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, eq. 3-4:
``score(u) = w_u^2 / sum of w_v^2 over all v with |w_v| >= |w_u|``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from onnxprune.allocation.base import ALLOCATIONS, FloatArray, Item, Strategy
from onnxprune.allocation.ladder import build, descend


class Lamp(Strategy):
    """One threshold over the squared scores, each relative to those that survive it in its item.

    The largest unit of every item scores 1, so no layer vanishes before all others are down to one
    unit too. A score that already is a power of the weight (``Item.degree``) is squared
    accordingly: what counts is ``w^2``.
    """

    summary: ClassVar[str] = "global threshold on w^2 / (sum of the larger w^2 in the layer)"

    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """See :meth:`Strategy.keep`."""
        ladders = [build(item, align, min_keep, lamp_scores) for item in items]
        steps = descend(ladders, budget)
        return {
            ladder.name: ladder.kept(count) for ladder, count in zip(ladders, steps, strict=True)
        }


def lamp_scores(scores: FloatArray, item: Item) -> FloatArray:
    """Return the LAMP scores of ascending ``scores``, in their order and dtype.

    Of equal scores the later ones count as larger, so every denominator is different.
    """
    result = np.full_like(scores, np.inf)
    finite = int(np.count_nonzero(np.isfinite(scores)))  # inf and NaN sort last
    if finite == 0:
        return result
    largest = float(np.abs(scores[:finite]).max())
    if largest == 0.0:
        result[:finite] = 0.0
        return result
    energy = (np.abs(scores[:finite]).astype(np.float64) / largest) ** (2.0 / item.degree)
    surviving = np.cumsum(energy[::-1])[::-1]
    result[:finite] = energy / surviving  # the last is the largest: no sum is zero
    return result


ALLOCATIONS.register("lamp", Lamp())
