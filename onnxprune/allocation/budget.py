"""Dividing a sparsity over items: overrides and fixed items first, the strategy over the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.allocation.base import ALLOCATIONS, Allocation, Item, lowest_keep, round_keep
from onnxprune.errors import UsageError


def allocate(
    strategy: str,
    items: Sequence[Item],
    sparsity: float | None,
    overrides: Mapping[str, float] | None = None,
    align: int = 1,
    min_keep: int = 1,
) -> Allocation:
    """Choose how many units of each item to keep.

    Args:
        strategy: a name in ``ALLOCATIONS``.
        items: with unique names; an empty sequence gives an empty allocation.
        sparsity: fraction of the weights of *all* items to remove, 0..1. Overridden and fixed
            items keep their own level and the free ones take the rest. None: only the overrides
            apply and every free item keeps all.
        overrides: item name -> its own sparsity (see :func:`resolve_overrides`).
        align: kept counts are multiples of this, or all of the item (see ``admissible``); counts
            in ``fixed_keep`` are taken as they are.
        min_keep: at least this many units of an item stay (all, where it has fewer).

    Returns:
        Counts for every item. Limits that come from ``align`` and ``min_keep`` are notes, not
        errors: rounding was asked for.

    Raises:
        UsageError: the strategy is unknown, a number is out of range, an override names no item,
            or overrides and fixed items leave no way to the asked sparsity (the message gives the
            range there is).
    """
    chosen = ALLOCATIONS.get(strategy)
    overrides = overrides or {}
    _check(items, sparsity, overrides, align, min_keep)
    keep: dict[str, int] = {}
    reasons: dict[str, str] = {}
    free: list[Item] = []
    for item in items:
        if item.fixed_keep is not None:
            keep[item.name] = item.fixed_keep
            reasons[item.name] = f"fixed at {item.fixed_keep} of {item.n_units}"
            if item.name in overrides:
                reasons[item.name] += ", so its override is not used"
        elif item.name in overrides:
            level = overrides[item.name]
            keep[item.name] = round_keep(
                (1.0 - level) * item.n_units, item.n_units, align, min_keep
            )
            reasons[item.name] = f"override {level:g}"
        else:
            free.append(item)
    total = sum(item.total_weight for item in items)
    notes: tuple[str, ...] = ()
    if sparsity is None:
        keep.update((item.name, item.n_units) for item in free)
    else:
        budget = _rest(items, free, keep, sparsity * total, total)
        keep.update(chosen.keep(free, budget, align, min_keep))
        notes = _shortfall(free, budget, align, min_keep)
    removed = sum(item.removed_weight(keep[item.name]) for item in items)
    ordered = {item.name: keep[item.name] for item in items}
    return Allocation(ordered, removed / total if total else 0.0, reasons, notes)


def _check(
    items: Sequence[Item],
    sparsity: float | None,
    overrides: Mapping[str, float],
    align: int,
    min_keep: int,
) -> None:
    """Raise UsageError for what no strategy could make sense of."""
    if sparsity is not None and not 0.0 <= sparsity <= 1.0:
        raise UsageError(f"sparsity {sparsity:g} is not a fraction to remove, from 0 to 1")
    if align < 1 or min_keep < 0:
        raise UsageError(f"align {align} must be at least 1 and min_keep {min_keep} at least 0")
    names = {item.name for item in items}
    if len(names) != len(items):
        raise ValueError("two items of one name")
    for name, level in overrides.items():
        if name not in names:
            raise UsageError(f"override {name}={level:g} names no layer that can be pruned")
        if not 0.0 <= level <= 1.0:
            raise UsageError(f"override {name}={level:g} is not a fraction, from 0 to 1")
    for item in items:
        if item.fixed_keep is not None and not 0 <= item.fixed_keep <= item.n_units:
            raise ValueError(f"{item.name}: cannot keep {item.fixed_keep} of {item.n_units}")


def _rest(
    items: Sequence[Item],
    free: Sequence[Item],
    keep: Mapping[str, int],
    wanted: float,
    total: float,
) -> float:
    """Return the weights the free items have to give up so that ``wanted`` go in all.

    Raises:
        UsageError: fewer than none or more than all, beyond what rounding the set counts explains.
    """
    set_items = [item for item in items if item.name in keep]
    gone = sum(item.removed_weight(keep[item.name]) for item in set_items)
    most = sum(item.total_weight for item in free)
    slack = sum(item.total_weight / max(1, item.n_units) for item in set_items) + 1e-9 * total
    budget = wanted - gone
    if budget < -slack or budget > most + slack:
        raise UsageError(
            f"a sparsity of {wanted / total:.4g} cannot be met: the layers that are fixed or have "
            f"their own level make up {1 - most / total:.4g} of the weights and remove "
            f"{gone / total:.4g}; with them, {gone / total:.4g} to {(gone + most) / total:.4g} is "
            "possible"
        )
    return min(max(budget, 0.0), most)


def _shortfall(free: Sequence[Item], budget: float, align: int, min_keep: int) -> tuple[str, ...]:
    """Say so when the counts that must stay do not let the budget be met."""
    most = sum(i.removed_weight(lowest_keep(i.n_units, align, min_keep)) for i in free)
    if budget <= most * (1 + 1e-9):
        return ()
    total = sum(item.total_weight for item in free)
    return (
        f"at least {max(align, min_keep)} of every layer's units stay, so {(budget - most):.0f} of "
        f"the {budget:.0f} weights to remove (of {total:.0f}) cannot go",
    )
