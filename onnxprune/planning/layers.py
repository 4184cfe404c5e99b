"""Weights of multiplying nodes, seen as ``[G, O, I, *K]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.rules.analysis import FLOATS, Analyzer
from onnxprune.rules.base import Contraction

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """One weight tensor and the node that multiplies by it.

    Attributes:
        name: the node's name, or the weight's where the node has none.
        node: the (first) node that uses the weight.
        value: the constant itself, behind Transpose / Identity / Cast if need be.
        tensor: its data.
        atoms: for every axis of ``value`` its factors as (role, size); see ``Contraction``.
        macs: multiply-accumulates of the node per sample, see ``Analyzer.nominal`` for open dims.
    """

    name: str
    node: ir.Node
    value: ir.Value
    tensor: ir.TensorProtocol
    atoms: tuple[tuple[tuple[str, int], ...], ...]
    macs: int

    @property
    def _order(self) -> list[int]:
        roles = [role for axis in self.atoms for role, _ in axis]
        return sorted(range(len(roles)), key=lambda i: ("goik".index(roles[i]), i))

    @property
    def _sizes(self) -> list[int]:
        return [size for axis in self.atoms for _, size in axis]

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Shape of the canonical view ``[G, O, I, *K]``."""
        totals = {"g": 1, "o": 1, "i": 1}
        kernel = []
        for axis in self.atoms:
            for role, size in axis:
                if role == "k":
                    kernel.append(size)
                else:
                    totals[role] *= size
        return (totals["g"], totals["o"], totals["i"], *kernel)

    def view(self, array: Array) -> Array:
        """Return ``array`` (shaped like the weight) as ``[G, O, I, *K]``; a view where possible."""
        view: Array = array.reshape(self._sizes).transpose(self._order).reshape(self.view_shape)
        return view

    def unview(self, view: Array) -> Array:
        """Return an array in the canonical view in the layout of the weight."""
        order, sizes = self._order, self._sizes
        back = np.argsort(order)
        spread = view.reshape([sizes[i] for i in order]).transpose(back)
        return np.ascontiguousarray(spread).reshape(self.tensor.shape.numpy())

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.view_shape)


def _source(
    analyzer: Analyzer, value: ir.Value, roles: Sequence[tuple[tuple[str, int], ...]]
) -> tuple[ir.Value, tuple[tuple[tuple[str, int], ...], ...]] | None:
    """Follow a weight back to its constant, permuting the roles of its axes on the way."""
    current = tuple(roles)
    while not analyzer.is_const(value):
        producer = value.producer()
        if producer is None or not producer.inputs or producer.inputs[0] is None:
            return None
        if producer.op_type == "Transpose":
            attr = producer.attributes.get("perm")
            perm = list(attr.as_ints()) if attr else list(range(len(current)))[::-1]
            back: list[tuple[tuple[str, int], ...]] = [()] * len(perm)
            for out, axis in enumerate(perm):
                back[axis] = current[out]
            current = tuple(back)
        elif producer.op_type not in ("Identity", "Cast"):
            return None
        value = producer.inputs[0]
    return value, current


def contraction_macs(analyzer: Analyzer, contraction: Contraction) -> int:
    """Return the multiply-accumulates of a node, open dims at their nominal sizes."""
    return math.prod(
        d if isinstance(d, int) else analyzer.nominal(d) if isinstance(d, tuple) else len(d)
        for d in contraction.macs
    )


def find_layers(analyzer: Analyzer) -> list[Layer]:
    """Return every float weight of a multiplying node, once each, in graph order."""
    layers: list[Layer] = []
    seen: set[ir.Value] = set()
    names: set[str] = set()
    for contraction in analyzer.contractions:
        if contraction.weight is None:
            continue
        operand = contraction.node.inputs[contraction.weight]
        found = None if operand is None else _source(analyzer, operand, contraction.roles)
        if found is None or found[0] in seen:
            continue
        value, atoms = found
        tensor = analyzer.tensor(value)
        if tensor is None or tensor.dtype not in FLOATS or not tensor.size:
            continue
        seen.add(value)
        name = contraction.node.name or value.name or "?"
        if name in names:
            name = f"{name}:{value.name}"
        names.add(name)
        layers.append(
            Layer(
                name,
                contraction.node,
                value,
                tensor,
                atoms,
                contraction_macs(analyzer, contraction),
            )
        )
    return layers
