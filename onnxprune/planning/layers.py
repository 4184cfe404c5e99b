"""Weights of multiplying nodes, seen as ``[G, O, I, *K]``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.rules.analysis import Analyzer
from onnxprune.rules.base import Contraction
from onnxprune.rules.reading import RELAYS, RESHAPES
from onnxprune.rules.stored import Stored

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layer:
    """One weight tensor and the node that multiplies by it.

    Attributes:
        name: the node's name, or the weight's where the node has none.
        node: the (first) node that uses the weight.
        value: the constant itself, behind Transpose / Reshape / Cast / DequantizeLinear ... if
            need be.
        tensor: its data as it is stored.
        atoms: for every axis of the weight its factors as (role, size); see ``Contraction``.
        macs: multiply-accumulates of the node per sample, see ``Analyzer.nominal`` for open dims.
        stored: how the data stands for numbers.
    """

    name: str
    node: ir.Node
    value: ir.Value
    tensor: ir.TensorProtocol
    atoms: tuple[tuple[tuple[str, int], ...], ...]
    macs: int
    stored: Stored

    def numbers(self) -> Array:
        """Return the weight as numbers: what is stored, or float32 made from integers."""
        return self.stored.numbers()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight; that of ``tensor`` unless it is packed."""
        return self.stored.shape

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
        return np.ascontiguousarray(spread).reshape(
            [math.prod(size for _, size in axis) for axis in self.atoms]
        )

    @property
    def depthwise(self) -> bool:
        """Whether every input channel has outputs of its own."""
        groups, _, inputs = self.view_shape[:3]
        return groups > 1 == inputs

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
        elif producer.op_type in RESHAPES:
            dims = analyzer.dims(producer.inputs[0])
            regrouped = None if dims is None else _regroup(current, dims)
            if regrouped is None:
                return None
            current = regrouped
        elif producer.op_type in ("Mul", "Div", "Sub"):
            index = _weight_operand(analyzer, producer, len(current))
            if index is None:
                return None
            value = producer.inputs[index] or value
            continue
        elif producer.op_type not in (*RELAYS, "DequantizeLinear"):
            return None
        value = producer.inputs[0]
    return value, current


def contraction_macs(analyzer: Analyzer, contraction: Contraction) -> int:
    """Return the multiply-accumulates of a node, open dims at their nominal sizes."""
    return math.prod(
        d if isinstance(d, int) else analyzer.nominal(d) if isinstance(d, tuple) else len(d)
        for d in contraction.macs
    )


def _regroup(
    axes: Sequence[tuple[tuple[str, int], ...]], dims: Sequence[Any]
) -> tuple[tuple[tuple[str, int], ...], ...] | None:
    """Divide the factors of ``axes``, row-major, over axes of the sizes ``dims``."""
    left = [atom for axis in axes for atom in axis if atom[1] != 1]
    out: list[tuple[tuple[str, int], ...]] = []
    for dim in dims:
        if not isinstance(dim, int) or dim < 1:
            return None
        row: list[tuple[str, int]] = []
        while dim > 1 and left:
            role, size = left.pop(0)
            part = math.gcd(size, dim)
            if part not in (size, dim):
                return None
            if part < size:
                left.insert(0, (role, size // part))
            row.append((role, part))
            dim //= part
        if dim > 1:
            return None
        out.append(tuple(row) or (("i", 1),))
    return None if left else tuple(out)


def _weight_operand(analyzer: Analyzer, node: ir.Node, rank: int) -> int | None:
    """Return which operand of an arithmetic node is the weight that the other one scales."""
    sizes = []
    for value in node.inputs:
        dims = None if value is None else analyzer.dims(value)
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        sizes.append((len(dims), math.prod(d for d in dims if isinstance(d, int))))
    index = 0 if node.op_type != "Mul" or sizes[0][1] >= sizes[1][1] else 1
    other = node.inputs[1 - index]
    if sizes[index][0] != rank or other is None or not analyzer.is_const(other):
        return None
    return index if sizes[1 - index][1] < max(sizes[index][1], 2) else None


def find_layers(analyzer: Analyzer) -> list[Layer]:
    """Return every weight of a multiplying node, once each, in graph order."""
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
        stored = analyzer.stored(value)
        if tensor is None or stored is None or not tensor.size:
            continue
        if tuple(math.prod(n for _, n in axis) for axis in atoms) != stored.shape:
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
                stored,
            )
        )
    return layers
