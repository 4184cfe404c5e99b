"""Which order of its channels every coupled group should have for a pattern that ties channels.

N:M ties consecutive inputs of a layer, a block consecutive outputs, or both. All layers in which a
group's units are tied have a say, as readers or as writers: their scores stand below each other in
one matrix, whose columns are the group's units, and the search of :mod:`.permutation` looks for
buckets that lose least over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.passes.permute import named_groups
from onnxprune.patterns import Pattern
from onnxprune.patterns.select import sum_runs
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.recovery.bucket_rules import BucketRule, KeepN, Together
from onnxprune.recovery.permutation import search_permutation
from onnxprune.rules.analysis import Analyzer

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Masks = Mapping[str, npt.NDArray[np.bool_]]
#: A new order has to keep this much more of the score, relatively, to be worth it.
LEAST_GAIN = 1e-4
#: Axis of the canonical view [G, O, I, *K] of a role.
AXES = {"o": 1, "i": 2}


@dataclass(frozen=True)
class Ordered:
    """A group's new order.

    Attributes:
        group: its name.
        order: the old unit at each new place [U].
        layers: names of the layers whose masks gain.
        before, after, upper: score kept by the pattern in the old order, in the new one, and by
            choosing weights freely.
    """

    group: str
    order: tuple[int, ...]
    layers: tuple[str, ...]
    before: float
    after: float
    upper: float

    @property
    def efficacy(self) -> float:
        """Share of the gap between the pattern and unstructured that the order closes."""
        gap = self.upper - self.before
        return (self.after - self.before) / gap if gap > 0 else 0.0


@dataclass(frozen=True)
class _Tied:
    """A layer in which units of a group are tied along an axis.

    Attributes:
        layer: the layer.
        axis: 1 for outputs, 2 for inputs of the canonical view.
        places: of the units along it [U], consecutive.
        run: how many consecutive ones are tied.
    """

    layer: Layer
    axis: int
    places: Ints
    run: int

    @property
    def name(self) -> str:
        """Name of the weight."""
        return self.layer.value.name or ""


def ties(pattern: Pattern, analyzer: Analyzer, masks: Masks) -> bool:
    """Return whether the order of channels matters to some mask."""
    layers = (x for x in find_layers(analyzer) if x.value.name in masks)
    return any(max(pattern.runs(layer.view_shape)) > 1 for layer in layers)


def find_orders(
    analyzer: Analyzer,
    pattern: Pattern,
    masks: Masks,
    scores: Mapping[str, npt.NDArray[np.float32]] | None = None,
    *,
    seed: int = 0,
) -> list[Ordered]:
    """Search an order for every group whose units a pattern ties in layers with a mask.

    Args:
        analyzer: of the dense model.
        pattern: the pattern.
        masks: by tensor name; they say how much of each layer stays.
        scores: by tensor name, scores in the canonical view, best ``w^2 / diag(H^-1)`` in units of
            the layer's output energy; where missing, squared weights over their sum in an output.
        seed: of the search.

    Returns:
        Orders that keep more than the present ones, in graph order. Groups whose units are not
        whole buckets of an axis are left out: no order of theirs changes a mask's choices.
        Where a group is tied in runs of different lengths, the longest ones have the say.
    """
    layers = {x.value.name or "": x for x in find_layers(analyzer)}
    turned: dict[tuple[str, int], Ints] = {}  # by tensor and axis: the old channel at each place
    found = []
    for title, group in named_groups(analyzer).items():
        seen = [
            _Tied(layers[span.tensor], *place)
            for span in group.spans
            if span.tensor in masks
            and span.tensor in layers
            and (place := _place(layers[span.tensor], span.axis, span.positions, pattern))
        ]
        m = max((t.run for t in seen), default=1)
        parts, names, counts = [], [], []
        for tied in seen:
            mask = tied.layer.view(masks[tied.name])
            if tied.run != m or not _whole(tied) or mask.all():
                continue
            rows = _rows(tied, _scores(tied.layer, scores), pattern, turned)
            parts.append(rows)
            names.append(tied.layer.name)
            counts.append((len(rows), _kept(tied, mask, pattern)))
        if m == 1 or not parts or len(group) <= m:
            continue
        rule: BucketRule = Together(m, tuple(counts))
        if pattern.fixed_density is not None:
            rule = KeepN(round(pattern.fixed_density * m), m)
        best = search_permutation(np.concatenate(parts), rule, seed=seed)
        if best.kept <= best.kept_before * (1 + LEAST_GAIN):
            continue
        order = tuple(int(i) for i in best.order)
        found.append(
            Ordered(
                title, order, tuple(dict.fromkeys(names)), best.kept_before, best.kept, best.upper
            )
        )
        for tied in seen:
            everyone = np.arange(tied.layer.view_shape[tied.axis])
            index = turned.setdefault((tied.name, tied.axis), everyone)
            index[tied.places] = tied.places[best.order]
    return found


def _place(
    layer: Layer, axis: int, positions: Ints, pattern: Pattern
) -> tuple[int, Ints, int] | None:
    """Return (axis of the view, places, run) where the units are outputs or inputs of the layer."""
    roles = [role for role, size in layer.atoms[axis] if size > 1]
    if len(roles) != 1 or roles[0] not in AXES or layer.view_shape[0] != 1:
        return None
    elsewhere = [r for a, atoms in enumerate(layer.atoms) if a != axis for r, s in atoms if s > 1]
    if layer.stored.packing is not None:  # its positions are blocks, not channels
        return None
    if roles[0] in elsewhere or positions.shape[1:] != (1,):
        return None
    along = AXES[roles[0]]
    return along, positions[:, 0], pattern.runs(layer.view_shape)[along - 1]


def _whole(tied: _Tied) -> bool:
    """Whether the units stand in a row that fills whole buckets."""
    first, units = int(tied.places[0]), len(tied.places)
    in_row = np.array_equal(tied.places, np.arange(units) + first)
    return bool(in_row and first % tied.run == 0 and units % tied.run == 0)


def _rows(tied: _Tied, view: F64, pattern: Pattern, turned: Mapping[tuple[str, int], Ints]) -> F64:
    """[rows, units]: a row for each block of the other channels, in their new order, and kernel
    position.
    """
    other = 3 - tied.axis
    run = pattern.runs(tied.layer.view_shape)[other - 1]
    part = np.take(view, tied.places, axis=tied.axis)
    if run > 1:
        if (tied.name, other) in turned:
            part = np.take(part, turned[tied.name, other], axis=other)
        part = sum_runs(part, other, run)
    rows: F64 = np.moveaxis(part, tied.axis, -1).reshape(-1, len(tied.places))
    return rows


def _kept(tied: _Tied, mask: npt.NDArray[np.bool_], pattern: Pattern) -> int:
    """How many units of the pattern stay among those that the group's channels are in."""
    shape = mask.shape
    units = pattern.unit_scores(mask.astype(np.float32)).reshape(pattern.grid(shape)) > 0
    if units.shape == shape:  # N:M, whose units are weights
        return int(np.count_nonzero(units))
    first = int(tied.places[0]) // tied.run
    here = np.take(units, range(first, first + len(tied.places) // tied.run), axis=tied.axis)
    return int(np.count_nonzero(here))


def _scores(layer: Layer, scores: Mapping[str, npt.NDArray[np.float32]] | None) -> F64:
    """What the layer's weights are worth, in the canonical view.

    Without samples nothing says which outputs matter, whose weights differ in size by the scales
    of normalisations: each counts the same. Otherwise the weak ones gather in blocks that go as a
    whole.
    """
    told = None if scores is None else scores.get(layer.value.name or "")
    if told is not None:
        return told.astype(np.float64)
    square: F64 = layer.view(layer.numbers().astype(np.float64)) ** 2
    outputs = square.sum(axis=tuple(range(2, square.ndim)), keepdims=True)
    relative: F64 = square / np.maximum(outputs, 1e-300) / max(1, square.shape[1])
    return relative
