"""Which elements of which values are the same whatever is fed to the model.

An abstract interpretation of the main graph. A value is described by :class:`Known`: an array in
which an axis along which nothing changes has size one, and for every element whether it is a
compile-time constant. Numbers are never derived by hand: a node is run on small arrays
(:mod:`.one_node`). What decides *dependence* is one of four laws:

* linear: an element of y = f(x, w) + b depends on x_i only where w_i is not zero. f is run on
  indicators of "unknown" and "not zero", so a filter of zeros, a scale of zero or a gate of zero
  emits a constant;
* pointwise: it depends on the elements at its own position;
* moving: it is one element of the input, so the mask of what is known moves along;
* any other operator with a rule: along the axes that pass it depends on its own coordinate, along
  all others on everything.

An operator without a rule yields unknowns. Dims that are symbols are probed at several sizes, and
only what is constant at all of them, and along the whole axis, counts: a border that zero padding
makes different is not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.passes.one_node import Array, Bench, LocalAxes, Shapes, widened
from onnxprune.rules.analysis import FLOATS, STANDARD, Analyzer
from onnxprune.rules.base import RULES

# Operators y = f(x, w) + b with f linear in both, and what stands in for their other inputs.
LINEAR: dict[str, tuple[int, int, int | None]] = {
    "Conv": (0, 1, 2),
    "ConvTranspose": (0, 1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1, None),
    "Mul": (0, 1, None),
    "BatchNormalization": (0, 1, 2),
}
_STATISTICS = {("BatchNormalization", 3): 0.0, ("BatchNormalization", 4): 1.0}
# Operators every output element of which is one input element, or a fill value.
MOVING = {
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_POINTWISE = re.compile(r"\*d(, (\*d|\.\.\.))* -> \*d(, \*d)*")
_LAWFUL = ("exact", "mixed axis frozen")  # what a rule must say of itself to be taken at its word
_PROBES = (4, 6)  # sizes tried for symbols
_ROUNDING = 2e-6  # relative; what float32 sums in different orders differ by
_LARGEST = 1 << 27  # elements of one expanded array


@dataclass(frozen=True)
class Known:
    """What is known of a value.

    Attributes:
        values: one element for every element of the value, axes along which nothing changes
            reduced to size one; 0 where unknown.
        known: bool, shaped like ``values``.
    """

    values: Array
    known: Array

    def at(self, axis: int, size: int, gone: Sequence[Array | None] = ()) -> tuple[Array, Array]:
        """Return, for every coordinate of an axis, (all of it is known, all of it is known zero).

        Args:
            axis: the axis.
            size: its full size.
            gone: for every axis the coordinates that do not count any more.
        """
        others = tuple(i for i in range(self.known.ndim) if i != axis)
        known = self.known.all(axis=others)
        zeros = self.known & (self.values == 0)
        for other, mask in enumerate(gone):
            if mask is not None and other != axis and mask.any():
                zeros = zeros | mask.reshape([-1] + [1] * (zeros.ndim - other - 1))
        zero = zeros.all(axis=others)
        return np.broadcast_to(known, (size,)), np.broadcast_to(zero, (size,))

    def __bool__(self) -> bool:
        return bool(self.known.any())


def _same(a: Array, b: Array) -> Array:
    """Return where two arrays hold the same numbers, but for the last bits of a float.

    A runtime may sum in another order at another position.
    """
    if a.dtype.kind != "f":
        return np.asarray(a == b)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(a - b) <= _ROUNDING * np.abs(b))


def settle(values: Array, known: Array, forced: Sequence[bool]) -> Known | None:
    """Reduce uniform axes to size one; along ``forced`` axes what is not uniform is unknown."""
    if values.dtype.kind not in "fiub":
        return None
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.True_
    known = np.broadcast_to(known, values.shape) & finite
    values = np.where(known, values, np.zeros((), values.dtype))
    for axis in range(values.ndim):
        if values.shape[axis] < 1:
            return None
        first = np.take(values, [0], axis), np.take(known, [0], axis)
        if forced[axis]:
            same = _same(values, first[0]).all(axis=axis, keepdims=True)
            known = known.all(axis=axis, keepdims=True) & same
            values = np.where(known, first[0], np.zeros((), values.dtype))
        elif _same(values, first[0]).all() and (known == first[1]).all():
            values, known = first
    return Known(values, known) if known.any() else None


def agree(a: Known | None, b: Known | None, forced: Sequence[bool]) -> Known | None:
    """Return what two descriptions of one value agree on."""
    if a is None or b is None:
        return None
    values, other, known, too = np.broadcast_arrays(a.values, b.values, a.known, b.known)
    return settle(values, known & too & _same(values, other), forced)


class ConstantValues:
    """Interprets the graph of an analyzer; ``of(value)`` is None where nothing is known."""

    def __init__(self, analyzer: Analyzer, bench: Bench | None = None) -> None:
        self.analyzer = analyzer
        self.bench = bench or Bench(analyzer.graph.opset_imports)
        self._known: dict[ir.Value, Known | None] = {}
        for node in analyzer.graph:
            if self._followed(node):
                for value, known in zip(node.outputs, self._transfer(node), strict=False):
                    if known:
                        self._known[value] = known

    def of(self, value: ir.Value | None) -> Known | None:
        """Return what is known of a value; constants of the model are known altogether."""
        if value is None:
            return None
        if value not in self._known and self.analyzer.is_const(value):
            tensor = self.analyzer.tensor(value)
            assert tensor is not None
            array = widened(np.asarray(tensor.numpy()))
            self._known[value] = Known(array, np.broadcast_to(np.True_, array.shape))
        return self._known.get(value)

    def _followed(self, node: ir.Node) -> bool:
        """Return whether anything can be known of the outputs."""
        if node.op_type == "Constant" or node in self.analyzer.unknown:
            return False
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            return False  # may be in training
        if node.op_type in LINEAR and node.domain in STANDARD:
            return True
        # Without a data input that is known somewhere the outputs are what the inputs are.
        moved = [v for v in node.inputs if v is not None and not self.analyzer.is_const(v)]
        return (
            any(self.of(v) for v in moved)
            or (not moved and any(v is not None for v in node.inputs))
            or node.op_type in ("Concat", "Pad")
        )

    def _transfer(self, node: ir.Node) -> list[Known | None]:
        standard = node.domain in STANDARD
        entry = RULES.get(("" if standard else node.domain, node.op_type))
        if entry is None:  # Shape and the like: numbers that the size tracer follows
            return []
        if standard and node.op_type in LINEAR:
            return [LinearNode(self, node).output()]
        if _POINTWISE.fullmatch(entry.text):
            return self._pointwise(node, entry.text)
        if standard and node.op_type in MOVING:
            return self._moved(node)
        return self._passed(node) if entry.exact in _LAWFUL else []

    # -- the laws -----------------------------------------------------------------------------

    def _pointwise(self, node: ir.Node, text: str) -> list[Known | None]:
        operands = text.split("->")[0]
        count = len(node.inputs) if "..." in operands else operands.count("*d")
        parts = [self.of(v) for v in node.inputs]
        extra = [self.analyzer.known(v) if v is not None else None for v in node.inputs[count:]]
        if not all(parts[:count]) or any(
            v is not None and e is None for v, e in zip(node.inputs[count:], extra, strict=True)
        ):
            return []
        data = [p for p in parts[:count] if p is not None]
        known = reduce(np.logical_and, [p.known for p in data])
        if not known.any():
            return []
        arrays = np.broadcast_arrays(*[p.values for p in data])
        outputs = self.bench.run(node, [*arrays, *extra])
        forced = [False] * known.ndim
        return [settle(y, known, forced) for y in outputs or []]

    def _moved(self, node: ir.Node) -> list[Known | None]:
        if node.outputs[0].dtype not in FLOATS:
            return []
        results: list[list[Known | None]] = []
        for size, shapes in self.probes(node):
            feeds = self._feeds(node, shapes, size)
            outputs = None if feeds is None else self.bench.run(node, [v for v, _ in feeds])
            # A fill value is no element of the input: 0 there means known.
            masks = (
                None
                if feeds is None
                else self.bench.run(
                    node, [v if k is None else (~k).astype(np.float32) for v, k in feeds]
                )
            )
            if outputs is None or masks is None:
                return []
            forced = [self._open(v) for v in node.outputs]
            results.append(
                [
                    settle(y, m == 0, f) if len(f) == y.ndim else None
                    for y, m, f in zip(outputs, masks, forced, strict=False)
                ]
            )
        return self._all_agree(node, results)

    def _passed(self, node: ir.Node) -> list[Known | None]:
        results: list[list[Known | None]] = []
        for size, shapes in self.probes(node):
            feeds = self._feeds(node, shapes, size)
            axes = None if feeds is None else self.bench.axes(self.analyzer, node, shapes)
            outputs = (
                None
                if feeds is None or axes is None
                else self.bench.run(node, [v for v, _ in feeds])
            )
            if outputs is None or feeds is None or axes is None:
                return []
            forced = self._open(node.outputs[0])
            if outputs[0].ndim != len(forced):
                return []
            known = np.ones([1] * outputs[0].ndim, np.bool_)
            for index, (_, mask) in enumerate(feeds):
                if mask is not None:
                    known = known & _spread(mask, index, axes, outputs[0].ndim)
            results.append([settle(outputs[0], known, forced)])
        return self._all_agree(node, results)

    # -- sizes --------------------------------------------------------------------------------

    def probes(self, node: ir.Node) -> Iterator[tuple[int, Shapes]]:
        """Yield input shapes to try: the declared ones, with a few sizes for what is open."""
        dims = [None if v is None else self.analyzer.dims(v) for v in node.inputs]
        if any(v is not None and d is None for v, d in zip(node.inputs, dims, strict=True)):
            return
        fixed = all(isinstance(d, int) for row in dims if row is not None for d in row)
        for size in _PROBES[:1] if fixed else _PROBES:
            yield (
                size,
                tuple(
                    None if row is None else tuple(d if isinstance(d, int) else size for d in row)
                    for row in dims
                ),
            )

    def _open(self, value: ir.Value) -> list[bool]:
        """Return which axes have no known size."""
        dims = self.analyzer.dims(value)
        return [] if dims is None else [not isinstance(d, int) for d in dims]

    def _feeds(
        self, node: ir.Node, shapes: Shapes, size: int
    ) -> list[tuple[Array | None, Array | None]] | None:
        """Return (values, known) at full size for every input; (value, None) for what is no data.

        None when an input that is no data (an index, a size) is not a constant.
        """
        feeds: list[tuple[Array | None, Array | None]] = []
        for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
            if value is None or shape is None:
                feeds.append((None, None))
                continue
            if math.prod(shape) > _LARGEST:
                return None
            if value.dtype in FLOATS or (
                value in self._known and not self.analyzer.is_const(value)
            ):
                feeds.append(full(self.of(value), value, shape))
                continue
            exact = self.analyzer.known(value)
            if exact is None:
                exact = self._sizes(node, index, size)
            if exact is None:
                return None
            feeds.append((np.asarray(exact, value.dtype.numpy() if value.dtype else None), None))
        return feeds

    def _sizes(self, node: ir.Node, index: int, size: int) -> Array | None:
        """Return a target shape that depends on open dims, as it is when those are ``size``."""
        entries = self.analyzer.sizes.of(node.inputs[index])
        if node.op_type not in ("Reshape", "Expand") or entries is None or entries.ndim != 1:
            return None
        numbers: list[int] = []
        for entry in entries:
            if entry.leaf is not None:
                dim = (self.analyzer.dims(entry.leaf[0]) or [])[entry.leaf[1]]
                numbers.append(dim if isinstance(dim, int) else size)
            else:
                numbers.append(-1 if entry.value is None or entry.leaves else int(entry.value))
        return np.array(numbers, np.int64) if numbers.count(-1) <= 1 else None

    def _all_agree(self, node: ir.Node, results: list[list[Known | None]]) -> list[Known | None]:
        if not results:
            return []
        merged: list[Known | None] = []
        for value, found in zip(node.outputs, zip(*results, strict=True), strict=False):
            result = found[0]
            for other in found[1:]:
                result = agree(result, other, self._open(value))
            merged.append(result)
        return merged


def full(known: Known | None, value: ir.Value, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return (values, known) of a value at full size; zeros where nothing is known."""
    if known is not None:
        return np.broadcast_to(known.values, shape), np.broadcast_to(known.known, shape)
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    dtype = widened(np.empty(0, dtype)).dtype
    return np.broadcast_to(np.zeros((), dtype), shape), np.broadcast_to(np.False_, shape)


def _spread(mask: Array, index: int, axes: LocalAxes, rank: int) -> Array:
    """Return where output 0 is known as far as input ``index`` goes; broadcasts to the output."""
    order: dict[int, int] = {}
    for axis in range(mask.ndim):
        out = axes.passing.get((index, axis))
        if out is not None and out not in order:
            order[out] = axis
    gone = tuple(a for a in range(mask.ndim) if a not in order.values())
    reduced = mask.all(axis=gone) if gone else mask
    kept = [a for a in range(mask.ndim) if a in order.values()]
    outs = sorted(order)
    reduced = reduced.transpose([kept.index(order[o]) for o in outs])
    shape = [1] * rank
    for out, size in zip(outs, reduced.shape, strict=True):
        shape[out] = size
    return reduced.reshape(shape)


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
        if shapes is None or any(s is not None and math.prod(s) > _LARGEST for s in shapes):
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
            return [(_PROBES[0], 0)]
        base, period = self._reach()
        return [(base + phase, phase) for phase in range(period)]

    def _reach(self) -> tuple[int, int]:
        """Return (a size with every kind of border and an inside, the period of the strides)."""
        if self.node.op_type not in ("Conv", "ConvTranspose"):
            return _PROBES[0], len(_PROBES)

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
