"""Uniform: the same sparsity everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from onnxprune.allocation.base import ALLOCATIONS, Item, Strategy, round_keep


class Uniform(Strategy):
    """Every item keeps the same fraction of its units, rounded to the nearest admissible count.

    The rounding of one item is not made up for by another, so that equal layers stay equal.
    """

    summary: ClassVar[str] = "the same sparsity for every layer or group"
    needs_scores: ClassVar[bool] = False

    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """See :meth:`Strategy.keep`."""
        total = sum(item.total_weight for item in items)
        density = 1.0 - budget / total if total else 1.0
        return {
            item.name: round_keep(density * item.n_units, item.n_units, align, min_keep)
            for item in items
        }


ALLOCATIONS.register("uniform", Uniform())
