"""Streaming state: a graph input that the caller fills with what an output gave the last time."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnxprune.rules.analysis import Analyzer

Pair = tuple[ir.Value, ir.Value]


def find_states(
    model: ir.Model, pattern: str, analyze_open: Callable[[set[ir.Value]], Analyzer]
) -> list[Pair]:
    """Return the (input, output) pairs whose coordinates are one and the same.

    An output is the next value of a state when, were neither frozen, coordinate i of every axis
    would be tied to coordinate i of that axis of the input, or be frozen by something else. So
    whichever coordinates go, go from both, and the output can be fed back. Among several such
    outputs the one of the most similar name is taken, each once.

    Args:
        pattern: regular expression on names of inputs.
        analyze_open: analyses the model with these inputs and outputs not frozen.
    """
    graph = model.graph
    inputs = [
        v for v in graph.inputs if not v.is_initializer() and re.search(pattern, v.name or "")
    ]
    faces = {(v.dtype, _dims(v)) for v in inputs}
    outputs = [v for v in graph.outputs if (v.dtype, _dims(v)) in faces and v not in inputs]
    if not inputs or not outputs:
        return []
    found = analyze_open({*inputs, *outputs})
    ranked = sorted(
        (
            (-SequenceMatcher(None, a.name or "", b.name or "").ratio(), i, j)
            for i, a in enumerate(inputs)
            for j, b in enumerate(outputs)
            if (a.dtype, _dims(a)) == (b.dtype, _dims(b)) and _same(found, a, b)
        ),
    )
    chosen: dict[int, int] = {}
    for _, i, j in ranked:
        if i not in chosen and j not in chosen.values():
            chosen[i] = j
    return [(inputs[i], outputs[j]) for i, j in sorted(chosen.items())]


def _dims(value: ir.Value) -> tuple[int | str | None, ...] | None:
    if value.shape is None:
        return None
    # Two symbols may be one size under two names; what is linked shows it.
    return tuple(d if isinstance(d, int) else "?" for d in value.shape)


def _same(found: Analyzer, a: ir.Value, b: ir.Value) -> bool:
    partition = found.partition
    tied = False
    for axis in range(len(a.shape or ())):
        one, other = found.ids(a, axis, None), found.ids(b, axis, None)
        if one is None or other is None:
            continue
        left, right = partition.labels[one], partition.labels[other]
        if np.array_equal(left, right):
            tied = tied or (len(left) > 1 and not partition.frozen[left].all())
        elif not (partition.frozen[left].all() and partition.frozen[right].all()):
            return False
    return tied
