"""Delete units that contribute nothing but a constant."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from onnxprune.axes import Bools, Ids
from onnxprune.passes.absorb import Offset, Summation
from onnxprune.passes.base import PASSES, Context, Pass, PassResult
from onnxprune.passes.constant_values import ConstantValues
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.passes.one_node import Bench
from onnxprune.passes.shrink import Surgery
from onnxprune.rules.analysis import Analyzer, analyze
from onnxprune.rules.rewriter import Constants


@PASSES.member("remove-dead")
@dataclass(frozen=True)
class RemoveDead(Pass):
    """Delete units that are dead: what they emit is a constant, or nobody listens.

    A unit whose incoming weights are all zero emits the same number everywhere and always: what its
    bias, normalisation and activation make of it. A unit whose outgoing weights are all zero does
    nothing, whatever it emits. Either is deleted when every node that sums over it can do without:
    a part of the sum that is zero needs nothing; a constant is added to the node's bias, which is
    made where there is none. Behind zero padding a constant is not constant at the border, so such
    a unit stays unless its constant is zero. At least one unit of a group stays, and so do units
    that are frozen. Repeated until nothing is left to delete.

    Works on the main graph: what a subgraph or function touches is frozen.

    Attributes:
        fold: also delete units with a non-zero constant, by folding it into biases.
    """

    name: ClassVar[str] = "remove-dead"
    fold: bool = True

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Delete dead units.

        ``stats``: ``units`` deleted, ``folded`` (those of them with a non-zero constant),
        ``groups`` ({"name", "removed"} each) and ``left``: constant units that stay, as {"group",
        "units", "where", "why"}.
        """
        InferShapes().run(model, context)
        removed: Counter[str] = Counter()
        folded = 0
        bench = Bench(model.graph.opset_imports)
        while True:
            dead = _find(analyze(model), self.fold, bench)
            if not dead.removed.any():
                break
            folded += dead.folded
            removed.update(dead.by_group)
            _delete(dead)
        if removed:
            context.facts.pop("analysis", None)  # it speaks of the model as it was
        stats: dict[str, Any] = {
            "units": sum(removed.values()),
            "folded": folded,
            "groups": [{"name": name, "removed": n} for name, n in removed.items()],
            "left": dead.left,
        }
        return PassResult(model, bool(removed), stats)


@dataclass
class _Dead:
    """What one round found.

    Attributes:
        analyzer: the analysis it belongs to.
        removed: bool [components].
        offsets: what the removed units add to a node's output, where that is not zero.
        folded: number of removed units that needed a bias somewhere.
        by_group: removed units by group name.
        left: constant units that stay, and why; see :meth:`RemoveDead.run`.
    """

    analyzer: Analyzer
    removed: Bools
    offsets: list[tuple[Summation, Offset]] = field(default_factory=list)
    folded: int = 0
    by_group: dict[str, int] = field(default_factory=dict)
    left: list[dict[str, Any]] = field(default_factory=list)


def _find(analyzer: Analyzer, fold: bool, bench: Bench) -> _Dead:
    """Decide which units go in this round."""
    count = analyzer.partition.count
    every = np.zeros(count, np.bool_)
    for group in analyzer.groups:
        every[group.labels] = True
    constants = ConstantValues(analyzer, bench)
    sums = [Summation(constants, site) for site in analyzer.sites]
    sums = [place for place in sums if place.touches(every)]
    reasons: dict[int, tuple[str, str]] = {}
    units = np.zeros(count, np.bool_)
    while True:  # what only fed units that go, goes too
        judged = [(place, *place.judge(units)) for place in sums]
        chosen = every.copy()
        for _, zero, fixed in judged:
            chosen &= fixed if fold else zero
        for place, zero, _ in judged:
            for label, why in _refused(place, place.here(chosen & ~zero)).items():
                chosen[label] = False
                reasons[label] = (place.where, why)
        for group in analyzer.groups:
            if chosen[group.labels].all():
                label = int(next((x for x in group.labels if not units[x]), group.labels[0]))
                chosen[label] = False
                reasons[label] = (group.name, "at least one unit of a group stays")
        if (chosen == units).all():
            break
        units = chosen
    dead = _Dead(analyzer, units)
    folded = np.zeros(count, np.bool_)
    for place, zero, _ in judged:
        here = place.here(units & ~zero)
        offset = place.offset(here) if here.any() else None
        if offset is not None and not offset.nothing:
            dead.offsets.append((place, offset))
            folded |= here
    dead.folded = int(folded.sum())
    for group in analyzer.groups:
        gone = int(units[group.labels].sum())
        if gone:
            dead.by_group[group.name] = gone
        held = Counter(reasons[int(x)] for x in group.labels if int(x) in reasons and not units[x])
        dead.left += [
            {"group": group.name, "units": n, "where": where, "why": reason}
            for (where, reason), n in held.items()
        ]
    return dead


def _refused(place: Summation, units: Bools) -> dict[int, str]:
    """Return the units whose constant cannot be folded at a site, and why."""
    scale = np.random.default_rng(0).uniform(0.5, 2.0, len(units))
    if not units.any() or place.refusal(place.offset(units, scale)) is None:
        return {}
    refused: dict[int, str] = {}
    for label in np.flatnonzero(units):
        alone = np.zeros(len(units), np.bool_)
        alone[label] = True
        offset = place.offset(alone)
        why = None if offset is not None and offset.nothing else place.refusal(offset)
        if why is not None:
            refused[int(label)] = why
    return refused


def _delete(dead: _Dead) -> None:
    """Fold the offsets, then take the units out."""
    old = dead.analyzer
    gone: dict[Any, Ids] = {}
    for key, ids in old.space.keys.items():
        places = np.flatnonzero(dead.removed[old.partition.labels[ids]])
        if len(places):
            gone[key] = places
    constants = Constants(old.graph)
    for place, offset in dead.offsets:
        place.fold(offset, constants)
    new = analyze(old.model) if dead.offsets else old
    removed = np.zeros(new.partition.count, np.bool_)
    for key, places in gone.items():
        again = new.space.keys.get(key)
        if again is not None:
            removed[new.partition.labels[again[places]]] = True
    assert not (removed & new.partition.frozen).any(), "a bias froze what was free"
    Surgery(new, removed).shrink()
