"""Auto: the best that is known for what is at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from onnxprune.allocation.base import ALLOCATIONS, Item, Strategy
from onnxprune.allocation.uniform import Uniform


class Auto(Strategy):
    """The same sparsity for all; with ``--data`` and a ``--target``, channels by measured damage.

    For channels a sparsity says what each group is to lose. A target leaves that open, and then
    recovery divides by a measured table (:mod:`onnxprune.recovery.channel_levels`) where it turns
    out better. Masks of free density are divided by a table of their own
    (:mod:`onnxprune.recovery.apply_levels`), with a sparsity too.
    """

    summary: ClassVar[str] = "uniform; with --data, what a target leaves open is measured"
    needs_scores: ClassVar[bool] = False

    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """See :meth:`Strategy.keep`."""
        return Uniform().keep(items, budget, align, min_keep)


ALLOCATIONS.register("auto", Auto())
