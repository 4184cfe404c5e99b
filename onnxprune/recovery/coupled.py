"""Who reads a group's units: the columns they own in every layer behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.axes import Group
from onnxprune.calibration.grams import Statistics
from onnxprune.calibration.operands import Operand
from onnxprune.errors import DataError
from onnxprune.recovery.problem import Ints, Quadratic
from onnxprune.recovery.structured import Consumer
from onnxprune.rules.analysis import Analyzer

#: Wider inputs than this are ranked by the criterion: an inverse would take too long.
WIDEST = 6144
#: Ridge, relative to the mean diagonal, under which units are compared.
DAMPING = 1e-3


@dataclass(frozen=True)
class Reading:
    """One layer's columns as a group's units.

    Attributes:
        operand: the layer and how it unfolds.
        unit_of: unit of every column [G, d]; -1 where the column is another group's.
    """

    operand: Operand
    unit_of: Ints


def readings(
    analyzer: Analyzer, group: Group, operands: Mapping[str, Operand]
) -> tuple[Reading, ...]:
    """Return the layers that sum over a group's units, in the order of ``operands``.

    Args:
        analyzer: that the group is of.
        group: coupled units.
        operands: layers with statistics, by name of their weight.
    """
    rank = np.full(analyzer.partition.count, -1, np.int64)
    rank[group.labels] = np.arange(len(group))
    found = []
    spans = {(span.tensor, span.axis) for span in group.spans}
    for name, operand in operands.items():
        layer = operand.layer
        axes = analyzer.parameter(layer.value, layer.node)
        if axes is None:
            continue
        shape = tuple(layer.tensor.shape.numpy())
        units = np.full(shape, -1, np.int64) if any((name, a) in spans for a in range(9)) else None
        hit = False
        for axis, (ids, atoms) in enumerate(zip(axes, layer.atoms, strict=True)):
            if units is None or ids is None or not any(role == "i" for role, _ in atoms):
                continue
            own = analyzer.partition.owners(ids)
            along = np.max([np.where(x >= 0, rank[x], -1) for x in own], axis=0)
            if (along >= 0).any():
                line = along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
                units = np.where(units >= 0, units, line)
                hit = True
        if hit and units is not None:
            columns = operand.matrix(units)
            found.append(Reading(operand, np.ascontiguousarray(columns[:, 0])))
    return tuple(found)


def consumers(
    reading: Sequence[Reading], stats: Mapping[str, Statistics], *, damping: float = DAMPING
) -> list[Consumer]:
    """Return what structured selection needs of the layers that have statistics.

    Args:
        reading: a group's layers.
        stats: moments of their inputs on the dense network, by name of their weight.
        damping: ridge relative to the mean diagonal.
    """
    found = []
    for one in reading:
        name = one.operand.layer.value.name or ""
        moments = stats.get(name)
        if moments is None or moments.gram.shape[-1] > WIDEST:
            continue
        if one.operand.bias is None:
            moments = moments.raw()
        weights = one.operand.matrix(np.asarray(one.operand.layer.tensor.numpy()))
        for g in range(len(weights)):
            if (one.unit_of[g] < 0).all():
                continue
            try:
                problem = Quadratic.build(
                    weights[g],
                    moments.gram[g],
                    None if moments.cross is None else moments.cross[g],
                    damping=damping,
                )
                assert problem.factor.size
            except DataError:
                continue
            found.append(Consumer(problem, one.unit_of[g]))
    return found
