"""Units (what lives and dies together) and groups (inside which units compete)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.axes.space import Bools, Ids, Partition


@dataclass(frozen=True)
class Span:
    """One parameter axis as a group sees it.

    Attributes:
        tensor: name of the parameter.
        axis: which of its axes.
        positions: int64 [n_units, m], the positions along that axis that belong to each unit.
    """

    tensor: str
    axis: int
    positions: Ids


@dataclass(frozen=True)
class Group:
    """Units that play the same role: they touch the same axes of the same parameters.

    Attributes:
        name: the first parameter axis the units have coordinates in, for people.
        labels: int64 [n_units], the components, in order of their first position.
        spans: every parameter axis the units have coordinates in.
    """

    name: str
    labels: Ids
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return len(self.labels)


def group_units(
    partition: Partition,
    axes: Sequence[tuple[str, int, Ids]],
    produced: Bools,
) -> list[Group]:
    """Group components by the set of parameter axes they touch.

    Args:
        partition: the components.
        axes: (parameter name, axis, ids) of every parameter axis, in graph order.
        produced: bool [components], those that some weight produces; any other is nobody's output
            (a kernel position, an embedding row) and belongs to no group.

    Returns:
        Groups in graph order, frozen components left out.
    """
    rng = np.random.default_rng(0x0A11)  # names sets of axes; any fixed seed will do
    signature = np.zeros(partition.count, np.uint64)
    # A coordinate that two units share counts for either.
    rows = [(name, axis, own) for name, axis, ids in axes for own in partition.owners(ids)]
    for _, _, labels in rows:
        token = rng.integers(1, 2**63, dtype=np.uint64)
        counts = np.bincount(labels[labels >= 0], minlength=partition.count)
        signature += counts.astype(np.uint64) * token
    wanted = produced.copy()
    wanted[partition.parts[produced[partition.composed]]] = True
    wanted &= ~partition.frozen
    groups: dict[int, list[tuple[str, int, Ids, Ids]]] = {}
    first: dict[int, int] = {}
    for order, (name, axis, labels) in enumerate(rows):
        here = np.flatnonzero((labels >= 0) & wanted[labels])
        if not len(here):
            continue
        signs = signature[labels[here]]
        for sign in np.unique(signs):
            positions = here[signs == sign]
            groups.setdefault(int(sign), []).append((name, axis, positions, labels[positions]))
            first.setdefault(int(sign), order)
    result = []
    for sign in sorted(groups, key=lambda s: first[s]):
        name, axis, positions, labels = groups[sign][0]
        order_in_group, starts = np.unique(labels, return_index=True)
        members = order_in_group[np.argsort(starts, kind="stable")]
        rank = np.full(partition.count, -1, np.int64)
        rank[members] = np.arange(len(members))
        spans = []
        for tensor, ax, pos, lab in groups[sign]:
            by_unit = np.argsort(rank[lab], kind="stable")
            spans.append(Span(tensor, ax, pos[by_unit].reshape(len(members), -1)))
        result.append(Group(f"{name}[{axis}]", members, tuple(spans)))
    return result
