"""Facts about models that reports show."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune import io
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.rules.analysis import Analyzer, analyze
from onnxprune.rules.bodies import nested, values_of


def interface(
    model: ir.Model, resized: Container[str | None] = ()
) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Return (direction, name, type, dims) of what a caller of the model sees.

    Args:
        resized: names of inputs and outputs that may have other sizes.
    """
    out = []
    hidden = {v for v in model.graph.inputs if v.is_initializer()}
    for direction, values in (("in", model.graph.inputs), ("out", model.graph.outputs)):
        for value in values:
            if value not in hidden or direction == "out":
                free = value.shape is None or value.name in resized
                dims = () if free else tuple(str(d) for d in value.shape or ())
                out.append((direction, value.name or "", str(value.type), dims))
    return out


def state_rows(
    model: ir.Model,
    states: Sequence[tuple[ir.Value, ir.Value]],
    before: Mapping[str | None, ir.Shape | None],
) -> list[dict[str, Any]]:
    """Say what became of streaming states.

    Returns:
        For every pair {"input", "output", "shape": {"before", "after"}}.
    """
    now = {v.name: v.shape for v in model.graph.inputs}

    def dims(shape: ir.Shape | None) -> list[int | str | None]:
        return [d if isinstance(d, int) else d.value for d in shape or ()]

    return [
        {
            "input": a.name,
            "output": b.name,
            "shape": {"before": dims(before[a.name]), "after": dims(now[a.name])},
        }
        for a, b in states
    ]


def forget_shapes(model: ir.Model, names: Sequence[str | None]) -> None:
    """Take the inferred shape and type off the named values, so that they are not stored."""
    wanted = set(names)
    for graph in nested(model.graph):
        for value in values_of(graph):
            face = value.is_graph_output() or value.is_graph_input() or value.is_initializer()
            if value.name in wanted and (graph is not model.graph or not face):
                value.shape = None
                if not face:
                    value.type = None


def untold_shapes(model: ir.Model) -> list[str | None]:
    """Return the names of values, bodies included, whose shape the file does not say."""
    return [v.name for graph in nested(model.graph) for v in values_of(graph) if v.shape is None]


def unit_labels(analyzer: Analyzer) -> dict[str, np.ndarray[Any, Any]]:
    """Return, by layer name, the units its weight makes."""
    names: dict[ir.Node, str] = {}
    for layer in find_layers(analyzer):
        names.setdefault(layer.node, layer.name)
    made: dict[str, list[np.ndarray[Any, Any]]] = {}
    for node, ids in analyzer.producers:
        own = analyzer.partition.owners(ids)
        made.setdefault(names.get(node) or analyzer.label(node), []).extend(own)
    units = {name: np.unique(np.concatenate(parts)) for name, parts in made.items()}
    return {name: labels[labels >= 0] for name, labels in units.items()}


def frozen_units(analyzer: Analyzer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Count the units that layers make, and say for every frozen one what froze it.

    Returns:
        {"total", "frozen", "labels"} and a list of {"where": layer, "why", "units"}.
    """
    made = unit_labels(analyzer)
    every = np.unique(np.concatenate(list(made.values()) or [np.empty(0, np.int64)]))
    held = analyzer.partition.frozen
    rows = []
    for name, labels in made.items():
        reasons = Counter(str(analyzer.partition.why(int(x))) for x in labels[held[labels]])
        rows += [{"where": name, "why": why, "units": n} for why, n in sorted(reasons.items())]
    counts = {"total": len(every), "removed": 0, "frozen": int(held[every].sum()), "labels": every}
    return counts, rows


def layer_sparsity(layer: Layer) -> float:
    """Return the fraction of a layer's weights that are zero."""
    zeros = layer.stored.is_zero(layer.value.const_value or layer.tensor)
    return np.count_nonzero(zeros) / zeros.size if zeros.size else 0.0


def weight_sparsity(analyzer: Analyzer) -> float:
    """Return the fraction of zeros over all layer weights."""
    zeros = total = 0
    layers = find_layers(analyzer)
    if any(layer.stored.quantised for layer in layers):
        # Zero points may have been cut since.
        layers = find_layers(analyze(analyzer.model))
    for layer in layers:
        found = ir.convenience.get_const_tensor(layer.value)
        total += layer.size
        if isinstance(found, io.DerivedTensor) and found.zeros is not None:
            zeros += found.zeros
            continue
        zero = layer.stored.is_zero(found if found is not None else layer.tensor)
        zeros += int(np.count_nonzero(zero))
    return zeros / total if total else 0.0


def by_reason(frozen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather what is frozen by its reason, the one that freezes most first."""
    gathered: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in frozen:
        gathered[row["why"]].append(row)
    rows = [
        {"why": why, "units": sum(r["units"] for r in held), "layers": [r["where"] for r in held]}
        for why, held in gathered.items()
    ]
    return sorted(rows, key=lambda r: (-r["units"], r["why"]))
