"""What sizes to count with where a model leaves them open."""

from __future__ import annotations

from collections.abc import Mapping

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


def nominal_shapes(model: ir.Model) -> dict[str, list[int | None]]:
    """Return the dims of values by name when open dimensions have their nominal sizes.

    Empty where nothing is open but the batch, whose size is 1 throughout. What inference cannot
    tell is None. The model is not changed.
    """
    sizes = open_sizes(model)
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
