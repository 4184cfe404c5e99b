"""Which order of its channels every coupled group should have for an N:M pattern.

All layers that read a group have a say: their scores stand below each other in one matrix, whose
columns are the group's units, and the search of :mod:`.permutation` looks for buckets that lose
least over all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.axes import Group
from onnxprune.passes.permute import named_groups
from onnxprune.patterns.nm import NM
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.recovery.permutation import search_permutation
from onnxprune.rules.analysis import Analyzer

F64 = npt.NDArray[np.float64]
#: A new order has to keep this much more of the score, relatively, to be worth it.
LEAST_GAIN = 1e-4


@dataclass(frozen=True)
class Ordered:
    """A group's new order.

    Attributes:
        group: its name.
        order: the old unit at each new place [U].
        layers: names of the layers whose masks gain.
        before, after, upper: score kept by N:M in the old order, in the new one, and by choosing
            weights freely.
    """

    group: str
    order: tuple[int, ...]
    layers: tuple[str, ...]
    before: float
    after: float
    upper: float

    @property
    def efficacy(self) -> float:
        """Share of the gap between N:M and unstructured that the order closes."""
        gap = self.upper - self.before
        return (self.after - self.before) / gap if gap > 0 else 0.0


def find_orders(
    analyzer: Analyzer,
    pattern: NM,
    tensors: Collection[str],
    scores: Mapping[str, npt.NDArray[np.float32]] | None = None,
    *,
    seed: int = 0,
) -> list[Ordered]:
    """Search an order for every group that layers with an N:M mask read.

    Args:
        analyzer: of the dense model.
        pattern: the pattern.
        tensors: names of the weights that get a mask.
        scores: by tensor name, scores in the canonical view, best ``w^2 / diag(H^-1)`` in units of
            the layer's output energy; squared weights over their sum where missing.
        seed: of the search.

    Returns:
        Orders that keep more than the present ones, in graph order. Groups whose units are not
        whole buckets of an input axis are left out: no order of theirs changes a mask's choices.
    """
    layers = {x.value.name or "": x for x in find_layers(analyzer)}
    found = []
    for title, group in named_groups(analyzer).items():
        parts, names = [], []
        for span in group.spans:
            layer = layers.get(span.tensor)
            if layer is None or span.tensor not in tensors:
                continue
            if _in_buckets(group, layer, span.axis, span.positions, pattern.m):
                parts.append(_scores(layer, span.positions[:, 0], scores))
                names.append(layer.name)
        if not parts or len(group) <= pattern.m:
            continue
        best = search_permutation(np.concatenate(parts), pattern.n, pattern.m, seed=seed)
        if best.kept > best.kept_before * (1 + LEAST_GAIN):
            order = tuple(int(i) for i in best.order)
            found.append(
                Ordered(title, order, tuple(names), best.kept_before, best.kept, best.upper)
            )
    return found


def _in_buckets(
    group: Group, layer: Layer, axis: int, positions: npt.NDArray[np.int64], m: int
) -> bool:
    """Whether the units are consecutive inputs of the layer that fill whole buckets."""
    view = layer.view_shape
    roles = [role for role, size in layer.atoms[axis] if size > 1]
    elsewhere = [r for a, atoms in enumerate(layer.atoms) if a != axis for r, s in atoms if s > 1]
    if layer.stored.packing is not None:  # its positions are blocks, not inputs
        return False
    if view[0] != 1 or roles != ["i"] or "i" in elsewhere or positions.shape[1:] != (1,):
        return False
    places, units = positions[:, 0], len(group)
    in_row = np.array_equal(places, np.arange(units) + places[0])
    return bool(in_row and places[0] % m == 0 and units % m == 0)


def _scores(
    layer: Layer,
    places: npt.NDArray[np.int64],
    scores: Mapping[str, npt.NDArray[np.float32]] | None,
) -> F64:
    """[rows, units]: the rows are outputs and kernel positions."""
    told = None if scores is None else scores.get(layer.value.name or "")
    known: F64
    if told is None:
        square = layer.view(layer.numbers().astype(np.float64)) ** 2
        known = square / max(float(square.sum()), 1e-300)
    else:
        known = told.astype(np.float64)
    view = known[0][:, places]  # [O, U, *K]
    rows: F64 = np.moveaxis(view, 1, -1).reshape(-1, len(places))
    return rows
