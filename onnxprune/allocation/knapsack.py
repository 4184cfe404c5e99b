"""One level an item, the sum of costs within a budget, the sum of damages least.

The multiple-choice knapsack, solved by dynamic programming over a grid of the budget (as SPDY,
Frantar and Alistarh 2022, divides time over layers; methods.md 3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
#: Steps of the budget.
STEPS = 4000


def choose_levels(
    costs: Sequence[npt.ArrayLike],
    damages: Sequence[npt.ArrayLike],
    budget: float,
    *,
    steps: int = STEPS,
) -> list[int] | None:
    """Return the level of every item.

    Args:
        costs: for every item, what each of its levels costs [levels], not negative.
        damages: likewise, what each does; infinite for a level that is not allowed.
        budget: most that the costs may add up to.
        steps: grid of the budget. Costs are rounded up to it, so that the budget always holds, and
            the result is exact where costs are whole multiples of ``budget / steps``.

    Returns:
        An index an item, or None where even the cheapest levels cost more than the budget. Of
        equally good choices the lower index wins in later items.
    """
    used = []
    for cost in costs:
        scaled = np.asarray(cost, np.float64) * (steps / budget if budget > 0 else 1.0)
        if budget <= 0:
            scaled = np.where(scaled > 0, np.inf, 0.0)
        rounded = np.ceil(scaled - 1e-9)
        used.append(np.where(rounded > steps, steps + 1, rounded).astype(np.int64))
    best = np.zeros(steps + 1)
    picks = np.zeros((len(used), steps + 1), np.int32)
    for row, (sizes, damage) in enumerate(zip(used, damages, strict=True)):
        harm = np.asarray(damage, np.float64)
        options = np.full((len(sizes), steps + 1), np.inf)
        for index, size in enumerate(sizes):
            if size <= steps:
                options[index, size:] = best[: steps + 1 - size] + harm[index]
        picks[row] = options.argmin(axis=0)
        best = options.min(axis=0)
    if not np.isfinite(best[steps]):
        return None
    left, found = steps, [0] * len(used)
    for row in range(len(used) - 1, -1, -1):
        found[row] = int(picks[row, left])
        left -= int(used[row][found[row]])
    return found
