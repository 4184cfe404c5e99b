"""Measured: by what pruning each layer alone does to the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from onnxprune.allocation.base import ALLOCATIONS, Item, Strategy
from onnxprune.allocation.uniform import Uniform


class Measured(Strategy):
    """Least summed damage, measured on samples a layer and level at a time.

    The measurement needs the network and ``--data``; recovery makes it and divides by dynamic
    programming (:mod:`onnxprune.recovery.apply_levels`). Without samples, and where that turns
    out no better, all layers get the same sparsity.
    """

    summary: ClassVar[str] = "by the damage each layer's pruning does, measured on --data"
    needs_scores: ClassVar[bool] = False

    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """See :meth:`Strategy.keep`."""
        return Uniform().keep(items, budget, align, min_keep)


ALLOCATIONS.register("measured", Measured())
