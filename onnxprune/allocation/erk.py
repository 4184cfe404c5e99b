"""ERK: Erdos-Renyi-kernel densities, larger layers sparser.

Source: Evci et al., "Rigging the Lottery: Making All Tickets Winners" (RigL), ICML 2020, sec. 3:
the density of a layer is proportional to ``(n_in + n_out + k_h + k_w) / (n_in n_out k_h k_w)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.allocation.base import ALLOCATIONS, Item, Strategy, lowest_keep, round_keep


class Erk(Strategy):
    """Densities proportional to ``sum(dims) / prod(dims)``, the factor solved from the budget.

    A layer whose share would exceed 1 stays dense and one whose share would fall below its least
    count stays there; the others are solved again until the budget is met exactly (up to rounding
    to whole units).
    """

    summary: ClassVar[str] = "density of a layer ~ sum(dims) / prod(dims): large layers sparser"
    needs_scores: ClassVar[bool] = False

    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """See :meth:`Strategy.keep`."""
        live = [item for item in items if item.n_units]
        sizes = np.array([item.total_weight for item in live])
        floors = np.array([lowest_keep(i.n_units, align, min_keep) / i.n_units for i in live])
        shares = np.array([_share(item) for item in live])
        density = erk_densities(shares, sizes, floors, float(sizes.sum()) - budget)
        kept = {item.name: 0 for item in items}
        for item, part in zip(live, density, strict=True):
            kept[item.name] = round_keep(part * item.n_units, item.n_units, align, min_keep)
        return kept


def _share(item: Item) -> float:
    dims = item.dims or (item.n_units, 1)
    return sum(dims) / math.prod(dims)


def erk_densities(
    shares: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    floors: npt.NDArray[np.float64],
    kept: float,
) -> npt.NDArray[np.float64]:
    """Return ``clip(factor * shares, floors, 1)`` whose factor keeps ``kept`` of ``sizes``.

    The kept weight is piecewise linear and rises with the factor, with a corner where a layer
    leaves its floor or reaches 1: find the two corners around ``kept``, then solve the line.
    A budget outside what floors and ones allow gives all floors or all ones.
    """

    def density(factor: float) -> npt.NDArray[np.float64]:
        return np.clip(factor * shares, floors, 1.0)

    corners = np.unique(np.concatenate((floors / shares, 1.0 / shares)))
    held = np.array([float(density(corner) @ sizes) for corner in corners])
    if not len(corners) or kept >= held[-1]:
        return np.ones_like(shares)
    if kept <= held[0]:
        return floors
    right = int(np.searchsorted(held, kept))
    left = right - 1
    part = (kept - held[left]) / (held[right] - held[left])
    return density(float(corners[left] + part * (corners[right] - corners[left])))


ALLOCATIONS.register("erk", Erk())
