"""Finding the sparsity at which a cost (parameters, MACs, bytes, time) meets its target."""

from __future__ import annotations

from collections.abc import Callable

from onnxprune.errors import UsageError


def solve_level(
    cost: Callable[[float], float],
    target: float,
    tol: float = 0.0,
    *,
    low: float = 0.0,
    high: float = 1.0,
    resolution: float = 1e-4,
) -> float:
    """Return the least sparsity whose cost is at most ``target``, by bisection.

    Args:
        cost: cost left at a sparsity; must not rise with it (steps are fine).
        target: the largest cost wanted, in the unit of ``cost``.
        tol: a cost this near to the target, on either side, ends the search.
        low: sparsity to start from.
        high: largest sparsity to consider.
        resolution: the answer is at most this much above the least sparsity that meets the target.

    Returns:
        A sparsity in low..high with ``cost(it) <= target + tol``, the one of those tried whose
        cost is nearest to the target. About ``log2((high - low) / resolution)`` calls of ``cost``.

    Raises:
        UsageError: even ``high`` costs more than the target; the message gives the range that can
            be reached.
    """
    most = cost(low)
    if most <= target + tol:
        return low
    least = cost(high)
    if not least <= target + tol:
        raise UsageError(
            f"a target of {target:g} cannot be reached: pruning as much as is allowed leaves "
            f"{least:g}, pruning nothing {most:g}; ask for something from {least:g} to {most:g}"
        )
    best, reached = high, least
    while high - low > resolution and abs(reached - target) > tol:
        middle = (low + high) / 2
        found = cost(middle)
        if found <= target + tol:
            high = best = middle
            reached = found
        else:
            low = middle
    return best
