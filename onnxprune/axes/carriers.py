"""Which factor carries the cut where an axis is a product of several.

A product axis can lose whole coordinates of one factor only. Factors that are the same axis
elsewhere (linked blocks) form a *family*, and a family is either live, then it carries every
product it is a factor of, or fixed, then its coordinates stay. Two families that meet in one
product cannot both be live: choosing is an independent-set problem, solved greedily: families that
a live one depends on first, then preferred ones (attention heads), then whichever leaves more units
free, then the earlier in the graph.
"""

from __future__ import annotations

from onnxprune.axes.components import connected_components
from onnxprune.axes.space import Ids, Partition, Product, Reason, Space


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


def choose_carriers(space: Space) -> tuple[list[tuple[Ids, Ids]], list[tuple[Ids, Reason]]]:
    """Return the links and freezes that the chosen carriers add to ``space``."""
    links: list[tuple[Ids, Ids]] = []
    frozen: list[tuple[Ids, Reason]] = []
    if not space.products:
        return links, frozen
    family_of_block = _families(space)

    def family(ids: Ids) -> int:
        return int(family_of_block[space.block_of(ids[:1])[0]])

    factors = [[family(f) for f in p.factors] for p in space.products]
    wholes = [family(p.whole) for p in space.products]
    preferred = {family(ids) for ids in space.prefer}
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
                product = space.products[i]
                links.append((product.whole, product.along(j)))
                for k, other in enumerate(factors[i]):
                    if k == j:
                        continue
                    why = "shares an axis with a factor that is pruned instead of it"
                    frozen.append((product.factors[k], Reason(product.where, why)))
                    undecided.discard(other)
        now = space.partition(links, frozen)
    for i, row in enumerate(factors):
        if not any(f in live for f in row):
            product = space.products[i]
            reason = _what_holds(product, now) or Reason(
                product.where, "no factor of this compound axis can be cut alone"
            )
            for ids in (product.whole, *product.factors):
                frozen.append((ids, reason))
    return links, frozen


def solve(space: Space) -> Partition:
    """Choose a carrier for every product and return the final components."""
    links, frozen = choose_carriers(space)
    return space.partition(links, frozen)
