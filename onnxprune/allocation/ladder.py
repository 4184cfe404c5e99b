"""Removing the globally lowest-scored units until a budget is met.

Each item becomes a ladder: the counts it may keep, from all downwards, with the score and the cost
of each step down. Because a ladder's scores ascend, one threshold over all ladders is the greedy
optimum, and with ``align`` a step is a whole chunk of channels, so the result needs no rounding
afterwards (as in HALP, Shen et al., NeurIPS 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.allocation.base import FloatArray, Item, admissible, ascending, lowest_keep

IntArray = npt.NDArray[np.int64]
Transform = Callable[[FloatArray, Item], FloatArray]


@dataclass(frozen=True, eq=False)
class Ladder:
    """The steps down of one item.

    Attributes:
        name: the item.
        scores: [steps] of each step down, ascending.
        cost: weights removed per step, or [steps + 1] weights removed after that many steps.
        keeps: [steps + 1] units kept after that many steps, or None for one unit a step.
        units: the number of units before the first step.
    """

    name: str
    scores: FloatArray
    cost: float | npt.NDArray[np.float64]
    keeps: IntArray | None
    units: int

    def removed(self, steps: int) -> float:
        """Return the weights removed after ``steps`` steps."""
        if isinstance(self.cost, np.ndarray):
            return float(self.cost[steps])
        return self.cost * steps

    def kept(self, steps: int) -> int:
        """Return the units kept after ``steps`` steps."""
        return self.units - steps if self.keeps is None else int(self.keeps[steps])

    def steps_to(self, threshold: float) -> int:
        """Return the number of steps with a score of at most ``threshold``."""
        # In the array's own dtype: a float64 threshold would have a float32 array copied.
        with np.errstate(over="ignore"):
            value = self.scores.dtype.type(threshold)
        return int(np.searchsorted(self.scores, value, side="right"))


def build(item: Item, align: int, min_keep: int, transform: Transform) -> Ladder:
    """Return the ladder of ``item``.

    ``transform(sorted scores, item)`` gives the scores that compare between items; it must keep
    their order.
    """
    units, each = item.n_units, item.unit_weight
    if each is not None:
        scores = transform(np.sort(item.scores), item)
    else:
        order = ascending(item.scores)
        scores = transform(item.scores[order], item)
        weights = np.asarray(item.weights_per_unit)[order]
        cumulative = np.concatenate(([0.0], np.cumsum(weights, dtype=np.float64)))
    if align <= 1:
        steps = units - lowest_keep(units, align, min_keep)
        cost = cumulative[: steps + 1] if each is None else each
        return Ladder(item.name, scores[:steps], cost, None, units)
    keeps = admissible(units, align, min_keep)
    gone = units - keeps
    means = scores[:0]
    if len(gone) > 1:
        means = np.add.reduceat(scores[: gone[-1]], gone[:-1]) / np.diff(gone)
    removed = cumulative[gone] if each is None else gone * each
    return Ladder(item.name, means, removed.astype(np.float64), keeps, units)


def descend(ladders: Sequence[Ladder], budget: float) -> list[int]:
    """Return how many steps to take on each ladder so that the removed weights come to ``budget``.

    The lowest-scored steps of all ladders are taken; equal scores are shared in proportion. The
    total is within half a step of ``budget`` where the ladders reach that far.
    """
    if budget <= 0:
        return [0] * len(ladders)
    below, upto = _bracket(ladders, budget)
    taken = _share(ladders, below, upto, budget)
    return _nearest(ladders, taken, upto, budget)


def _removed(ladders: Sequence[Ladder], steps: Sequence[int]) -> float:
    return sum(ladder.removed(count) for ladder, count in zip(ladders, steps, strict=True))


def _bracket(ladders: Sequence[Ladder], budget: float) -> tuple[list[int], list[int]]:
    """Return the steps below, and up to, the one score at which the budget is crossed."""

    def steps_at(key: int) -> list[int]:
        threshold = _float_of(key)
        return [ladder.steps_to(threshold) for ladder in ladders]

    # Over the bit patterns of float64, ordered as integers: exact in at most 64 halvings.
    low, high = _key_of(-np.inf) - 1, _key_of(np.finfo(np.float64).max)
    if _removed(ladders, steps_at(high)) < budget:  # the rest scores inf or NaN
        return steps_at(high), [ladder.scores.size for ladder in ladders]
    while high - low > 1:
        middle = (low + high) // 2
        if _removed(ladders, steps_at(middle)) < budget:
            low = middle
        else:
            high = middle
    below = steps_at(low) if low >= _key_of(-np.inf) else [0] * len(ladders)
    return below, steps_at(high)


def _key_of(value: float) -> int:
    bits = int(np.float64(value).view(np.int64))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFFFFFFFFFF)


def _float_of(key: int) -> float:
    magnitude = float(np.int64(abs(key)).view(np.float64))
    return magnitude if key >= 0 else -magnitude


def _share(
    ladders: Sequence[Ladder], below: list[int], upto: list[int], budget: float
) -> list[int]:
    """Take the same fraction of every ladder's equal-scored steps, never passing the budget."""

    def at(fraction: float) -> list[int]:
        return [b + int(fraction * (u - b)) for b, u in zip(below, upto, strict=True)]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _removed(ladders, at(middle)) <= budget:
            low = middle
        else:
            high = middle
    return at(low)


def _nearest(
    ladders: Sequence[Ladder], taken: list[int], upto: list[int], budget: float
) -> list[int]:
    """Take single further steps, in item order, as long as each brings the total nearer."""
    short = budget - _removed(ladders, taken)
    result = list(taken)
    for i, ladder in enumerate(ladders):
        if result[i] >= upto[i]:
            continue
        cost = ladder.removed(result[i] + 1) - ladder.removed(result[i])
        if abs(short - cost) < abs(short):
            result[i] += 1
            short -= cost
    return result
