"""Reorder coupled channels: another order of the units of a group, in every tensor they touch.

The network computes what it computed: producers write channels in the new order and consumers read
them in it, so nothing is left to do at run time. N:M and block masks lose less under a good order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.axes import Group
from onnxprune.errors import UsageError
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.shrink import set_constant
from onnxprune.rules.analysis import Analyzer, Use, analyze
from onnxprune.rules.rewriter import Constants

Ints = npt.NDArray[np.int64]


@PASSES.member("permute")
@dataclass(frozen=True)
class Permute(Pass):
    """Give the units of groups the orders in ``context.facts["orders"]``.

    The fact maps names of groups (see :func:`named_groups`) to the old unit at each new
    place. Works on the main graph; what a subgraph or function touches is frozen and in no group.
    Without the fact nothing happens.
    """

    name: ClassVar[str] = "permute"

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Reorder in place; the fact is taken out, so that a second run changes nothing.

        Raises:
            UsageError: no such group, an order that is none, or units that differ in size.
        """
        orders = context.facts.pop("orders", None) or {}
        moved = permute_units(analyze(model), orders) if orders else 0
        context.facts.pop("analysis", None)
        return PassResult(model, bool(moved), {"groups": len(orders), "tensors": moved})


def permute_units(analyzer: Analyzer, orders: Mapping[str, Sequence[int]]) -> int:
    """Write the analyzed model's constants in another order of units.

    Args:
        analyzer: of the model; analyze anew afterwards.
        orders: by group name, the old unit at each new place.

    Returns:
        How many constants changed.

    Raises:
        UsageError: see :meth:`Permute.run`.
    """
    groups = named_groups(analyzer)
    source = np.arange(analyzer.partition.count)  # component whose values each component takes
    for name, order in orders.items():
        if name not in groups:
            raise UsageError(f"there is no group {name!r} whose units could be reordered")
        _check(name, groups[name], order)
        source[groups[name].labels] = groups[name].labels[np.asarray(order, np.int64)]
    changed = 0
    by_value: dict[ir.Value, list[tuple[Use | None, list[Ints | None]]]] = {}
    for (value, use), axes in analyzer.parameters.items():
        takes = [
            None if ids is None else _take(analyzer.partition.labels[ids], source) for ids in axes
        ]
        by_value.setdefault(value, []).append((use, takes))
    constants = Constants(analyzer.graph)
    for value, uses in by_value.items():
        if all(take is None for _, takes in uses for take in takes):
            continue
        changed += _rewrite(analyzer, constants, value, uses)
    return changed


def named_groups(analyzer: Analyzer) -> dict[str, Group]:
    """Return the groups whose units may change places, by name.

    The later of several groups of one name are told apart by a number.
    """
    found: dict[str, Group] = {}
    rigid = np.zeros(analyzer.partition.count, np.bool_)
    for ids in analyzer.ordered:
        rigid[analyzer.partition.labels[ids]] = True
    for group in analyzer.groups:
        if rigid[group.labels].any():
            continue
        name, count = group.name, 2
        while name in found:
            name, count = f"{group.name}#{count}", count + 1
        found[name] = group
    return found


def _check(name: str, group: Group, order: Sequence[int]) -> None:
    if sorted(int(i) for i in order) != list(range(len(group))):
        raise UsageError(
            f"the order given for {name!r} does not hold each of its {len(group)} units once"
        )


def _take(labels: Ints, source: Ints) -> Ints | None:
    """Old position of every new one along an axis, or None where nothing moves.

    A unit's positions keep their order among themselves.
    """
    moving = np.flatnonzero(source[labels] != labels)
    if not moving.size:
        return None
    take = np.arange(len(labels))
    by_label = np.argsort(labels, kind="stable")
    names, starts, counts = np.unique(labels[by_label], return_index=True, return_counts=True)
    for label in np.unique(labels[moving]):
        here = int(np.searchsorted(names, label))
        there = int(np.searchsorted(names, source[label]))
        same = there < len(names) and names[there] == source[label]
        if not same or counts[here] != counts[there]:
            raise UsageError("units of different sizes cannot change places")
        new = by_label[starts[here] : starts[here] + counts[here]]
        take[new] = by_label[starts[there] : starts[there] + counts[there]]
    return take


def _rewrite(
    analyzer: Analyzer,
    constants: Constants,
    value: ir.Value,
    uses: list[tuple[Use | None, list[Ints | None]]],
) -> int:
    """Write a constant anew; uses that need different orders get one of their own each."""
    tensor = analyzer.tensor(value)
    if tensor is None:
        return 0
    array = np.asarray(tensor.numpy())
    listed = {use for use, _ in uses}
    whole = None in listed or all((u.node, u.idx) in listed for u in value.uses())
    variants: dict[bytes, list[tuple[Use | None, list[Ints | None]]]] = {}
    for use, takes in uses:
        key = b"|".join(b"" if t is None else t.tobytes() for t in takes)
        variants.setdefault(key, []).append((use, takes))
    written = 0
    for number, members in enumerate(variants.values()):
        takes = members[0][1]
        if all(t is None for t in takes):
            continue
        moved = array
        for axis, take in enumerate(takes):
            moved = moved if take is None else np.take(moved, take, axis=axis)
        if whole and len(variants) == 1 and not value.is_graph_output():
            set_constant(value, np.ascontiguousarray(moved))
        else:
            clone = constants.add(f"{value.name}_ordered{number or ''}", moved)
            for use, _ in members:
                if use is not None:
                    use[0].replace_input_with(use[1], clone)
        written += 1
    return written
