"""What is allocated (items of units), to whom (strategies), and the registry of the latter."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.registry import Registry

FloatArray = npt.NDArray[np.floating[Any]]
NumberArray = npt.NDArray[np.floating[Any] | np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Item:
    """One weight, or one group of coupled channels, whose units compete for being kept.

    Attributes:
        name: unique among the items of one call.
        scores: 1-D [n_units], any float dtype; larger is more worth keeping, NaN counts as +inf.
        weights_per_unit: how many weights (or any other cost) leave with a unit: one number, or
            [n_units] where units differ. Positive.
        dims: (out, in, *kernel) of the weight, for ERK; empty lets ERK treat it as (n_units, 1).
        fixed_keep: the number of units kept whatever the strategy says; None leaves it free.
        degree: the exponent d of ``score ~ |w| ** d``, for strategies defined on squared weights.
    """

    name: str
    scores: FloatArray
    weights_per_unit: float | NumberArray = 1.0
    dims: tuple[int, ...] = ()
    fixed_keep: int | None = None
    degree: float = 1.0

    @property
    def n_units(self) -> int:
        """The number of units."""
        return self.scores.size

    @property
    def unit_weight(self) -> float | None:
        """The weights of any unit where all have the same number, else None."""
        weights = self.weights_per_unit
        if not isinstance(weights, np.ndarray):
            return float(weights)
        if weights.size == 0:
            return 0.0
        if weights.ndim == 0 or weights.strides == (0,) or weights.min() == weights.max():
            return float(weights.flat[0])
        return None

    @property
    def total_weight(self) -> float:
        """The weights of all units together."""
        each = self.unit_weight
        if each is not None:
            return each * self.n_units
        return float(np.sum(self.weights_per_unit, dtype=np.float64))

    def removed_weight(self, keep: int) -> float:
        """The weights that leave when the ``keep`` units of largest score stay."""
        each = self.unit_weight
        if each is not None:
            return each * (self.n_units - keep)
        order = ascending(self.scores)[: self.n_units - keep]
        return float(np.asarray(self.weights_per_unit)[order].sum(dtype=np.float64))


@dataclass(frozen=True)
class Allocation:
    """How many units of each item stay.

    Attributes:
        keep: item name -> number of units kept.
        sparsity: the fraction of all weights that leaves.
        reasons: item name -> why its count is not simply what the strategy chose.
        notes: what the user should know about the whole, e.g. a target that was not quite met.
    """

    keep: dict[str, int]
    sparsity: float
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Strategy(ABC):
    """A way to divide the sparsity of a whole model over its items.

    Class attributes: ``summary``, one line for the listings; ``needs_scores``, False where the
    values of the scores do not matter (a caller may then pass zeros and spare itself the scoring).
    """

    summary: ClassVar[str]
    needs_scores: ClassVar[bool] = True

    @abstractmethod
    def keep(
        self, items: Sequence[Item], budget: float, align: int, min_keep: int
    ) -> Mapping[str, int]:
        """Choose how many units of each item to keep.

        Args:
            items: the free ones (``fixed_keep`` is not looked at).
            budget: the weights to remove from them together, 0..their total.
            align: see :func:`admissible`.
            min_keep: see :func:`admissible`.

        Returns:
            item name -> an admissible count, the removed weights as near to ``budget`` as the
            strategy's own rule allows.
        """


ALLOCATIONS: Registry[Strategy] = Registry("allocation", "onnxprune.allocation")


def ascending(scores: FloatArray) -> npt.NDArray[np.int64]:
    """Return the order in which units leave: lowest score first, of equals the higher index first.

    The reverse of what masks keep, so counts and masks mean the same units.
    """
    order: npt.NDArray[np.int64] = (scores.size - 1) - np.argsort(scores[::-1], kind="stable")
    return order


def lowest_keep(units: int, align: int, min_keep: int) -> int:
    """Return the smallest admissible count, see :func:`admissible`."""
    floor = min(max(min_keep, 0), units)
    if align <= 1 or units == 0:
        return floor
    return min(align * max(1, math.ceil(floor / align)), units)


def admissible(units: int, align: int, min_keep: int) -> npt.NDArray[np.int64]:
    """Return the counts that an item of ``units`` may keep, from ``units`` downwards.

    All multiples of ``align`` that are at least one multiple and ``min_keep``, and ``units``
    itself: an item that is no multiple keeps everything or a multiple.
    """
    low = lowest_keep(units, align, min_keep)
    if align <= 1:
        return np.arange(units, low - 1, -1)
    multiples = np.arange(units // align * align, low - 1, -align)
    return multiples if units % align == 0 else np.append(units, multiples)


def round_keep(wanted: float, units: int, align: int = 1, min_keep: int = 1) -> int:
    """Return the admissible count nearest to ``wanted``; halfway keeps more."""
    low = lowest_keep(units, align, min_keep)
    step = max(1, align)
    below = math.floor(wanted / step) * step
    above = min(below + step, units)
    # 1e-9: 15 * (1 - 0.9) is not quite 1.5 and should still count as halfway.
    nearest = below if wanted - below < above - wanted - 1e-9 else above
    return min(max(nearest, low), units)
