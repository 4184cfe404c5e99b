"""One operator that is linear in its operands: what it depends on, and what it adds up to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxprune.passes.known import Known, agree, full, settle
from onnxprune.passes.one_node import Array, Shapes

if TYPE_CHECKING:
    from onnxprune.passes.constant_values import ConstantValues

# Operators y = f(x, w) + b with f linear in x and in w: the inputs x, w and b.
LINEAR: dict[str, tuple[int, int, int | None]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, None),
    "Mul": (0, 1, None),
    "BatchNormalization": (0, 1, 2),
}
# What makes them purely linear: a normalisation with mean zero and variance one.
_STATISTICS = {("BatchNormalization", 3): 0.0, ("BatchNormalization", 4): 1.0}
PROBES = (4, 6)  # sizes tried for symbols
LARGEST = 1 << 27  # elements of one expanded array


def _has_zeros(known: Known | None) -> bool:
    """Return whether some row along some axis is zero; times unknowns nothing else is constant."""
    if known is None:
        return False
    rows = (known.at(axis, size)[1] for axis, size in enumerate(known.values.shape))
    return any(bool(zero.any()) for zero in rows) or not (known.values.ndim or known.values.any())


class LinearNode:
    """One node of :data:`LINEAR`, run on indicators, on values and on parts of its input."""

    def __init__(self, constants: ConstantValues, node: ir.Node) -> None:
        self.constants = constants
        self.node = node
        self.x, self.w, self.b = LINEAR[node.op_type]

    @property
    def _data(self) -> list[int]:
        return [i for i in (self.x, self.w, self.b) if i is not None and self._has(i)]

    def _has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def output(self) -> Known | None:
        """Return what is known of the output."""
        parts = {i: self.constants.of(self.node.inputs[i]) for i in self._data}
        for one, other in ((self.x, self.w), (self.w, self.x)):
            if parts[one] is None and not _has_zeros(parts[other]):
                return None
        for index in range(3, len(self.node.inputs)):
            if self._has(index) and not self.constants.analyzer.is_const(
                self.node.inputs[index]  # type: ignore[arg-type]
            ):
                return None
        return self.evaluate(parts, bias=True)

    def evaluate(self, parts: dict[int, Known | None], *, bias: bool) -> Known | None:
        """Return what is known of f(x, w) (+ b) for what is known of the inputs.

        Args:
            parts: input index -> what is known of it.
            bias: whether b takes part.
        """
        out = self.node.outputs[0]
        dims = self.constants.analyzer.dims(out)
        if dims is None:
            return None
        result: Known | None = None
        for first, (size, _) in enumerate(self._sizes()):
            found = self._at(parts, size, bias, dims)
            forced = [not isinstance(d, int) for d in dims]
            result = found if not first else agree(result, found, forced)
            if result is None:
                return None
        return result

    def _at(
        self, parts: dict[int, Known | None], size: int, bias: bool, dims: list[Any]
    ) -> Known | None:
        shapes = self._compact(parts, size)
        if shapes is None or any(s is not None and math.prod(s) > LARGEST for s in shapes):
            return None
        value: dict[int, Array] = {}
        unknown: dict[int, Array] = {}
        for i in self._data:
            operand, shape = self.node.inputs[i], shapes[i]
            assert operand is not None and shape is not None
            values, known = full(parts.get(i), operand, shape)
            value[i], unknown[i] = values, ~known
        one = np.dtype(np.float32)
        some = {i: ((value[i] != 0) | unknown[i]).astype(one) for i in (self.x, self.w)}
        marks = {i: u.astype(one) for i, u in unknown.items()}
        depends: Array = np.False_  # type: ignore[assignment]
        for x, w in ((marks[self.x], some[self.w]), (some[self.x], marks[self.w])):
            if x.any() and w.any():
                reach = self._call(x, w, None, shapes, marked=True)
                if reach is None:
                    return None
                depends = depends | (reach != 0)
        b = self.b if bias and self.b in value else None
        if b is not None and marks[b].any():
            none = np.zeros_like(marks[self.x]), np.zeros_like(marks[self.w])
            reach = self._call(*none, marks[b], shapes, marked=True)
            if reach is None:
                return None
            depends = depends | (reach != 0)
        if np.all(depends) and np.size(depends) > 1:
            return None
        y = self._call(value[self.x], value[self.w], value[b] if b is not None else None, shapes)
        if y is None or y.ndim != len(dims):
            return None
        # Where positions were cut short only what does not depend on them can be told.
        forced = [not isinstance(d, int) or y.shape[a] not in (1, d) for a, d in enumerate(dims)]
        known = np.broadcast_to(~np.asarray(depends), y.shape)
        return settle(y, known, forced)

    def _call(
        self,
        x: Array,
        w: Array,
        b: Array | None,
        shapes: Shapes,
        *,
        marked: bool = False,
    ) -> Array | None:
        inputs: list[Array | None] = [None] * len(self.node.inputs)
        inputs[self.x], inputs[self.w] = x, w
        if self.b is not None and self._has(self.b):
            shape = shapes[self.b]
            assert shape is not None
            inputs[self.b] = np.zeros(shape, x.dtype) if b is None else b
        for index in range(3, len(inputs)):
            operand, shape = self.node.inputs[index], shapes[index]
            if operand is None or shape is None:
                continue
            if marked:
                fill = _STATISTICS[self.node.op_type, index]
                inputs[index] = np.full(shape, fill, x.dtype)
            else:
                inputs[index] = full(self.constants.of(operand), operand, shape)[0]
        outputs = self.constants.bench.run(self.node, inputs)
        return None if outputs is None else outputs[0]

    # -- sizes --------------------------------------------------------------------------------

    def _sizes(self) -> list[tuple[int, int]]:
        """Return the sizes to try for open axes: as many as the strides have phases."""
        dims = [self.constants.analyzer.dims(v) for v in self.node.inputs if v is not None]
        if all(isinstance(d, int) for row in dims for d in row or ()):
            return [(PROBES[0], 0)]
        base, period = self._reach()
        return [(base + phase, phase) for phase in range(period)]

    def _reach(self) -> tuple[int, int]:
        """Return (a size with every kind of border and an inside, the period of the strides)."""
        if self.node.op_type not in ("Conv", "ConvTranspose"):
            return PROBES[0], len(PROBES)

        def ints(name: str) -> list[int]:
            attr = self.node.attributes.get(name)
            return [] if attr is None else list(attr.as_ints())

        weight = self.constants.analyzer.dims(self.node.inputs[1])  # type: ignore[arg-type]
        taps = max((d for d in (weight or [])[2:] if isinstance(d, int)), default=1)
        extent = (taps - 1) * max(ints("dilations"), default=1) + 1
        strides = ints("strides") or [1]
        around = max(ints("pads") + ints("output_padding"), default=0)
        return 2 * (extent + around + max(strides)), math.lcm(*strides)

    def _compact(self, parts: dict[int, Known | None], size: int) -> Shapes | None:
        """Return input shapes with every axis cut down that cannot make a difference."""
        analyzer = self.constants.analyzer
        rows: list[list[int] | None] = []
        for value in self.node.inputs:
            dims = None if value is None else analyzer.dims(value)
            if value is not None and dims is None:
                return None
            rows.append(None if dims is None else [d if isinstance(d, int) else size for d in dims])
        uniform = {
            (i, axis): parts.get(i) is None or parts[i].known.shape[axis] == 1  # type: ignore[union-attr]
            for i, row in enumerate(rows)
            if row is not None and i in self._data
            for axis in range(len(row))
        }
        self._shorten_positions(rows, uniform)
        shapes = tuple(None if row is None else tuple(row) for row in rows)
        found = self.constants.bench.axes(analyzer, self.node, shapes)
        if found is None:
            return None
        for sources in found.sources.values():
            passing = all(s in found.passing for s in sources)
            if passing and all(uniform.get(s, False) for s in sources):
                for i, axis in sources:
                    row = rows[i]
                    assert row is not None
                    row[axis] = 1
        return tuple(None if row is None else tuple(row) for row in rows)

    def _shorten_positions(
        self, rows: list[list[int] | None], uniform: dict[tuple[int, int], bool]
    ) -> None:
        """Cut positions of a convolution to a size at which borders look the same."""
        row = rows[self.x]
        if self.node.op_type not in ("Conv", "ConvTranspose") or row is None:
            return
        if "output_shape" in self.node.attributes:
            return
        base, period = self._reach()
        for axis in range(2, len(row)):
            if uniform[self.x, axis] and row[axis] >= base + period:
                row[axis] = base + (row[axis] - base) % period
