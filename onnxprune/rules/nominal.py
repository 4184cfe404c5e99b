"""What sizes to count with where a model leaves them open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.io.open_dims import BATCH, SEQUENCE, SOUND, SPATIAL, role
from onnxprune.rules.shapes import infer_shapes

NOMINAL: Mapping[str, int] = {BATCH: 1, SPATIAL: 224, SEQUENCE: 128, SOUND: 16_000}
"""Sizes that multiply-accumulates are counted at: one sample, the usual image, a short text, a
second of speech."""


def open_sizes(model: ir.Model) -> dict[str, int]:
    """Return the nominal size of every open dimension of the inputs, by ``input[axis]``."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        dims = [] if value.is_initializer() or value.shape is None else list(value.shape)
        known = [d if isinstance(d, int) else d.value for d in dims]
        for axis, dim in enumerate(known):
            if not isinstance(dim, int) or dim <= 0:
                found[f"{value.name}[{axis}]"] = NOMINAL[role(known, axis, value.name or "")]
    return found


def sizes_seen(model: ir.Model, feeds: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the mean size in samples of every open dimension but the batch, by ``input[axis]``."""
    found = {}
    for key, size in open_sizes(model).items():
        name, axis = key.removesuffix("]").rsplit("[", 1)
        shapes = [np.shape(feed[name]) for feed in feeds if name in feed]
        if size != NOMINAL[BATCH] and shapes and len(shapes[0]) > int(axis):
            found[key] = max(1, round(sum(s[int(axis)] for s in shapes) / len(shapes)))
    return found


def nominal_shapes(
    model: ir.Model, seen: Mapping[str, int] | None = None
) -> dict[str, list[int | None]]:
    """Return the dims of values by name when open dimensions have their nominal sizes.

    Empty where nothing is open but the batch, whose size is 1 throughout. What inference cannot
    tell is None. The model is not changed.

    Args:
        model: to look at.
        seen: sizes that take the place of nominal ones, by ``input[axis]``.
    """
    sizes = open_sizes(model) | dict(seen or {})
    if all(size == NOMINAL[BATCH] for size in sizes.values()):
        return {}
    copy = model.clone()
    for value in copy.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape(
                [sizes.get(f"{value.name}[{i}]", d) for i, d in enumerate(value.shape)]
            )
    for node in copy.graph:
        for value in node.outputs:
            value.shape = None
    infer_shapes(copy)
    values = [v for node in copy.graph for v in node.outputs]
    return {
        v.name: [d if isinstance(d, int) and d > 0 else None for d in v.shape]
        for v in (*copy.graph.inputs, *values)
        if v.name and v.shape is not None
    }
