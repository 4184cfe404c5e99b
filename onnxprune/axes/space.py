"""Coordinates and the statements made about them.

A *block* is a run of consecutive coordinate ids: one axis of one tensor, or one factor of one
operator. Rules make four kinds of statement about blocks:

* ``link(a, b)``: coordinate a[i] lives and dies with b[i];
* ``freeze(ids, reason)``: these coordinates must stay;
* ``product(whole, factors)``: an axis of size n1*n2*... is laid out over factors of sizes n1, n2,
  ... (row-major). It can be cut along one of its factors only, the *carrier*;
* nothing: the coordinate is free.

:func:`onnxprune.axes.solve` chooses carriers and returns the connected components.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onnxprune.axes.components import connected_components

Ids = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reason:
    """Why coordinates must stay: the node that said so and a sentence for a person."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


@dataclass(frozen=True)
class Product:
    """``whole`` (n ids) laid out row-major over ``factors`` (n1, n2, ... ids, all sizes > 1)."""

    whole: Ids
    factors: tuple[Ids, ...]
    where: str

    def along(self, carrier: int) -> Ids:
        """Return, for every coordinate of ``whole``, the id of its ``carrier`` coordinate."""
        sizes = [len(f) for f in self.factors]
        shape = [1] * len(sizes)
        shape[carrier] = sizes[carrier]
        return np.broadcast_to(self.factors[carrier].reshape(shape), sizes).reshape(-1)


@dataclass(frozen=True)
class Composed:
    """``whole`` (n ids), of which a coordinate goes with either of two factors' coordinates.

    Attributes:
        whole: the merged axis.
        parts: for every coordinate of ``whole`` its coordinate of either factor.
    """

    whole: Ids
    parts: tuple[Ids, Ids]


def _nothing() -> Ids:
    return np.empty((0, 2), np.int64)


@dataclass
class Partition:
    """Connected components of all links.

    Attributes:
        labels: int64 [n_ids], the component of every coordinate.
        count: number of components.
        reason: int64 [count], index into ``reasons`` of what froze the component, -1 if free.
        reasons: what froze anything, in the order it was said.
        composed: int64 [m], components that are no units: each goes with either of two others.
        parts: int64 [m, 2], these two.
    """

    labels: Ids
    count: int
    reason: Ids
    reasons: list[Reason]
    composed: Ids = field(default_factory=lambda: np.empty(0, np.int64))
    parts: Ids = field(default_factory=_nothing)

    @property
    def frozen(self) -> Bools:
        """Bool [count]: components that must stay."""
        held: Bools = self.reason >= 0
        return held

    def why(self, label: int) -> Reason | None:
        """Return what froze component ``label``, or None when it is free."""
        index = int(self.reason[label])
        return self.reasons[index] if index >= 0 else None

    def owners(self, ids: Ids) -> list[Ids]:
        """Return the units that coordinates belong to: one array, or two where any has two.

        In the second, -1 stands where a coordinate belongs to one unit alone.
        """
        labels = self.labels[ids]
        if not len(self.composed):
            return [labels]
        row = np.full(self.count, -1, np.int64)
        row[self.composed] = np.arange(len(self.composed))
        at = row[labels]
        if (at < 0).all():
            return [labels]
        first, second = self.parts[at].T
        return [np.where(at < 0, labels, first), np.where(at < 0, -1, second)]

    def closed(self, removed: Bools) -> Bools:
        """Return removed components [count] with the composed ones that go with them."""
        if not len(self.composed):
            return removed
        every: Bools = removed.copy()
        every[self.composed] |= removed[self.parts].any(axis=1)
        return every

    def opened(self, removed: Bools, told: Bools) -> Bools:
        """Undo :meth:`closed`: a unit goes when everything told that is composed of it does.

        Args:
            removed: bool [count], right where ``told``.
            told: components that ``removed`` speaks of.
        """
        if not len(self.composed):
            return removed
        every: Bools = removed.copy()
        known = told[self.composed]
        gone = removed[self.composed[known]]
        for part in self.parts[known].T:
            stays = np.bincount(part[~gone], minlength=self.count)
            every[part[stays[part] == 0]] = True
        return self.closed(every)


@dataclass
class Space:
    """Collects blocks and statements; see the module docstring."""

    size: int = 0
    _starts: list[int] = field(default_factory=list)
    _links: list[tuple[Ids, Ids]] = field(default_factory=list)
    _freezes: list[tuple[Ids, Reason]] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    prefer: list[Ids] = field(default_factory=list)
    marks: dict[str, list[Ids]] = field(default_factory=dict)
    keys: dict[Hashable, Ids] = field(default_factory=dict)

    def new(self, n: int, key: Hashable | None = None) -> Ids:
        """Allocate a block of ``n`` ids, remembered under ``key`` when one is given."""
        ids = np.arange(self.size, self.size + n, dtype=np.int64)
        self._starts.append(self.size)
        self.size += n
        if key is not None:
            self.keys[key] = ids
        return ids

    def link(self, a: Ids, b: Ids) -> None:
        """State that a[i] and b[i] live and die together; lengths must agree."""
        if len(a) != len(b):
            raise ValueError(f"cannot link {len(a)} coordinates with {len(b)}")
        if len(a):
            self._links.append((a, b))

    def freeze(self, ids: Ids, reason: Reason) -> None:
        """State that ``ids`` must stay, and why."""
        if len(ids):
            self._freezes.append((ids, reason))

    def product(self, whole: Ids, factors: Sequence[Ids], where: str) -> None:
        """State that ``whole`` is laid out row-major over ``factors``; size-1 factors are ignored.

        Raises:
            ValueError: the sizes do not multiply to ``len(whole)``.
        """
        wide = [f for f in factors if len(f) != 1]
        if int(np.prod([len(f) for f in wide], dtype=np.int64)) != len(whole):
            raise ValueError(f"{where}: factors {[len(f) for f in factors]} of {len(whole)}")
        if len(wide) == 1:
            self.link(whole, wide[0])
        elif len(wide) > 1:
            self.products.append(Product(whole, tuple(wide), where))

    def prefer_carrier(self, ids: Ids) -> None:
        """Mark a block as the natural carrier of products it is a factor of (attention heads)."""
        self.prefer.append(ids)

    def mark(self, ids: Ids, what: str) -> None:
        """Say what a block is (``heads``), so that a choice of structure can tell units apart."""
        self.marks.setdefault(what, []).append(ids)

    def block_of(self, ids: Ids) -> Ids:
        """Return the block number of every id."""
        return np.searchsorted(np.asarray(self._starts), ids, side="right") - 1

    @property
    def n_blocks(self) -> int:
        """Number of blocks allocated so far."""
        return len(self._starts)

    def block_links(self) -> tuple[Ids, Ids]:
        """Return the links between blocks (one pair a link statement side by side)."""
        if not self._links:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        firsts = np.asarray([[a[0], b[0]] for a, b in self._links])
        pairs = [self.block_of(firsts[:, 0]), self.block_of(firsts[:, 1])]
        mixed_a: list[Ids] = []
        mixed_b: list[Ids] = []
        starts = np.asarray([*self._starts, self.size])
        for (a, b), block_a, block_b in zip(self._links, *pairs, strict=True):
            # A statement may reach across several blocks on one side; most do not.
            if (
                a.min() < starts[block_a]
                or a.max() >= starts[block_a + 1]
                or (b.min() < starts[block_b] or b.max() >= starts[block_b + 1])
            ):
                joint = np.unique(np.stack([self.block_of(a), self.block_of(b)]), axis=1)
                mixed_a.append(joint[0])
                mixed_b.append(joint[1])
        return np.concatenate([pairs[0], *mixed_a]), np.concatenate([pairs[1], *mixed_b])

    def components(self, extra: Sequence[tuple[Ids, Ids]] = ()) -> tuple[int, Ids]:
        """Return (count, labels) of the components of all links and the ``extra`` ones."""
        links = [*self._links, *extra]
        if not links:
            return self.size, np.arange(self.size, dtype=np.int64)
        a = np.concatenate([x for x, _ in links])
        b = np.concatenate([x for _, x in links])
        return connected_components(a, b, self.size)

    def partition(
        self,
        extra: Sequence[tuple[Ids, Ids]] = (),
        frozen: Sequence[tuple[Ids, Reason]] = (),
        composed: Sequence[Composed] = (),
    ) -> Partition:
        """Return the components with the first reason (in order of statement) that froze each."""
        count, labels = self.components(extra)
        rows = np.empty((0, 3), np.int64)
        while composed:
            rows = np.unique(
                np.concatenate([np.stack([labels[c.whole], *(labels[p] for p in c.parts)], axis=1)
                                for c in composed]),
                axis=0,
            )  # fmt: skip
            twice = np.flatnonzero(rows[1:, 0] == rows[:-1, 0])
            if not len(twice):
                break
            # One component said to be composed of two pairs: these pairs are one.
            some = np.unique(labels, return_index=True)[1]
            extra = [*extra, *((some[rows[twice, k]], some[rows[twice + 1, k]]) for k in (1, 2))]
            count, labels = self.components(extra)
        reason = np.full(count, -1, np.int64)
        statements = [*self._freezes, *frozen]
        # Later statements are written first so that the earliest one stays.
        for index in range(len(statements) - 1, -1, -1):
            reason[labels[statements[index][0]]] = index
        whole, parts = rows[:, 0], rows[:, 1:]
        for part in parts.T:  # what holds a composed component holds what it is composed of
            new = (reason[whole] >= 0) & (reason[part] < 0)
            reason[part[new]] = reason[whole[new]]
        held = (reason[parts] >= 0).all(axis=1)
        reason[whole] = np.where(held, reason[parts[:, 0]], -1)
        return Partition(labels, count, reason, [r for _, r in statements], whole, parts)
