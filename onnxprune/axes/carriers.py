"""Which factor carries the cut where an axis is a product of several.

A product axis can lose whole coordinates of one factor only. Factors that are the same axis
elsewhere (linked blocks) form a *family*, and a family is either live, then it carries every
product it is a factor of, or fixed, then its coordinates stay. Two families that meet in one
product cannot both be live: choosing is an independent-set problem, solved greedily: families that
a live one depends on first, then preferred ones (attention heads), then whichever leaves more units
free, then the earlier in the graph.

Attention heads are an exception: beside them their inside can be cut, when a unit of the merged
axis is no longer one of either factor but goes with either (:class:`Composed`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.axes.components import connected_components
from onnxprune.axes.space import Composed, Ids, Partition, Product, Reason, Space


def _families(space: Space) -> Ids:
    """Return, for every block, the number of the family of linked blocks it belongs to."""
    a, b = space.block_links()
    return connected_components(a, b, space.n_blocks)[1]


def _free_units(product: Product, carrier: int, now: Partition) -> int:
    """Count the coordinates of the carrier that nothing holds, were it chosen."""
    labels = now.labels
    held = now.frozen[labels[product.whole]]
    sizes = [len(f) for f in product.factors]
    axes = tuple(i for i in range(len(sizes)) if i != carrier)
    lines = held.reshape(sizes).any(axis=axes) | now.frozen[labels[product.factors[carrier]]]
    return int((~lines).sum())


def _what_holds(product: Product, now: Partition) -> Reason | None:
    """Return what froze the largest factor, if anything froze all of it."""
    largest = max(product.factors, key=len)
    labels = now.labels[largest]
    return now.why(int(labels[0])) if now.frozen[labels].all() else None


def _choose(
    space: Space, factors: list[list[int]], wholes: list[int], preferred: set[int]
) -> dict[int, int]:
    """Return which factor of each product carries it, where one can.

    Args:
        space: coordinates and statements.
        factors: family of every factor, by product.
        wholes: family of the merged axis, by product.
        preferred: families that are natural carriers.
    """
    carriers: dict[int, int] = {}
    undecided = {f for row in factors for f in row}
    occurrences: dict[int, list[tuple[int, int]]] = {f: [] for f in undecided}
    for i, row in enumerate(factors):
        for j, f in enumerate(row):
            occurrences[f].append((i, j))
    live: set[int] = set()

    now = space.partition()
    while undecided:
        ranks: dict[int, tuple[bool, bool, int]] = {}
        for f in undecided:
            # A family met twice in one product would have to be cut along both at once.
            twice = any(factors[i].count(f) > 1 for i, _ in occurrences[f])
            free = (
                0
                if twice
                else min(_free_units(space.products[i], j, now) for i, j in occurrences[f])
            )
            if free > 0:
                # Unless one of its own factors is live, a live family that is a product itself
                # (query heads = shared heads x repeats) could not be cut after all.
                needed = any(wholes[i] in live for i, _ in occurrences[f])
                ranks[f] = (needed, f in preferred, free)
        if not ranks:
            break
        # Repeated layers tie: deciding all families of the best rank in one round keeps the
        # number of rounds at the number of different ranks.
        best = max(ranks.values())
        for f in sorted((f for f in ranks if ranks[f] == best), key=lambda f: occurrences[f][0]):
            if f not in undecided:
                continue
            live.add(f)
            undecided.discard(f)
            for i, j in occurrences[f]:
                carriers[i] = j
                undecided.difference_update(factors[i])
        now = space.partition(*_statements(space, carriers))
    return carriers


def _statements(
    space: Space, carriers: Mapping[int, int], second: Mapping[int, int] | None = None
) -> tuple[list[tuple[Ids, Ids]], list[tuple[Ids, Reason]], list[Composed]]:
    """Return the links, freezes and compositions of the chosen carriers.

    Args:
        space: coordinates and statements.
        carriers: by product, the factor that carries it.
        second: by product, another one beside it.
    """
    links: list[tuple[Ids, Ids]] = []
    frozen: list[tuple[Ids, Reason]] = []
    composed: list[Composed] = []
    for i, j in carriers.items():
        product = space.products[i]
        other = (second or {}).get(i, j)
        if other == j:
            links.append((product.whole, product.along(j)))
        else:
            parts = (product.along(j), product.along(other))
            composed.append(Composed(product.whole, parts))
        for k, factor in enumerate(product.factors):
            if k not in (j, other):
                why = "shares an axis with a factor that is pruned instead of it"
                frozen.append((factor, Reason(product.where, why)))
    return links, frozen, composed


def _inside(
    space: Space,
    factors: list[list[int]],
    wholes: list[int],
    preferred: set[int],
    carriers: dict[int, int],
) -> dict[int, int]:
    """Return the products whose innermost factor can be cut beside the heads that carry them.

    The inside of attention heads: each head loses the same coordinates. A family is taken where
    every product that it is a factor of is carried by heads, and where the heads stay as free as
    they are without it.
    """
    everywhere = {f for row in factors for f in row}
    heads = set(preferred)
    while more := {row[carriers[i]] for i, row in enumerate(factors)
                   if i in carriers and wholes[i] in heads} - heads:  # fmt: skip
        heads |= more  # query heads = shared heads x repeats: what carries heads is heads
    plain = space.partition(*_statements(space, carriers))
    before = {i: _count_free(space.products[i].factors[j], plain) for i, j in carriers.items()}
    fits: dict[int, bool] = {}
    for i, row in enumerate(factors):
        j = carriers.get(i)
        carried = j is not None and row[j] in heads and wholes[i] not in everywhere
        for k, f in enumerate(row):
            if k != j:
                own = carried and k == len(row) - 1 and row.count(f) == 1
                fits[f] = fits.get(f, True) and own
            else:
                fits[f] = False
    chosen = {f for f, fit in fits.items() if fit}
    while chosen:
        second = {
            i: len(row) - 1 for i, row in enumerate(factors) if i in carriers and row[-1] in chosen
        }
        now = space.partition(*_statements(space, carriers, second))
        nested = np.isin(now.composed, now.parts)
        wrong = set()
        for i, k in second.items():
            product = space.products[i]
            both = np.isin(now.labels[product.whole], now.composed[nested]).any()
            fewer = _count_free(product.factors[carriers[i]], now) < before[i]
            if both or fewer or _count_free(product.factors[k], now) < 2:
                wrong.add(factors[i][k])
        if not wrong:
            return second
        chosen -= wrong
    return {}


def _count_free(ids: Ids, now: Partition) -> int:
    """Return how many free components there are among coordinates."""
    return len(np.unique(now.labels[ids][~now.frozen[now.labels[ids]]]))


def solve(space: Space, *, inside_heads: bool = False) -> Partition:
    """Choose a carrier for every product and return the final components.

    Args:
        space: coordinates and statements.
        inside_heads: let the inside of attention heads go too, where it can.
    """
    if not space.products:
        return space.partition()
    family_of_block = _families(space)

    def family(ids: Ids) -> int:
        return int(family_of_block[space.block_of(ids[:1])[0]])

    factors = [[family(f) for f in p.factors] for p in space.products]
    wholes = [family(p.whole) for p in space.products]
    preferred = {family(ids) for ids in space.prefer}
    carriers = _choose(space, factors, wholes, preferred)
    second = _inside(space, factors, wholes, preferred, carriers) if inside_heads else {}
    links, frozen, composed = _statements(space, carriers, second)
    now = space.partition(links, frozen, composed)
    for i, product in enumerate(space.products):
        if i not in carriers:
            reason = _what_holds(product, now) or Reason(
                product.where, "no factor of this compound axis can be cut alone"
            )
            for ids in (product.whole, *product.factors):
                frozen.append((ids, reason))
    return space.partition(links, frozen, composed)
