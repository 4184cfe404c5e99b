"""Which elements of which values are the same whatever is fed to the model.

An abstract interpretation of the main graph. A value is described by :class:`.known.Known`: an
array in which an axis along which nothing changes has size one, and for every element whether it is
a compile-time constant. Numbers are never derived by hand: a node is run on small arrays
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
from collections.abc import Iterator
from functools import reduce

import numpy as np
import onnx_ir as ir

from onnxprune.passes.known import Known, agree, full, settle
from onnxprune.passes.linear_node import LARGEST, LINEAR, PROBES, LinearNode
from onnxprune.passes.one_node import Array, Bench, LocalAxes, Shapes, widened
from onnxprune.rules.analysis import FLOATS, STANDARD, Analyzer
from onnxprune.rules.base import RULES
from onnxprune.rules.bodies import graphs_of

# Operators every output element of which is one input element, or a fill value.
MOVING = {
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
_POINTWISE = re.compile(r"\*d(, (\*d|\.\.\.))* -> \*d(, \*d)*")
_LAWFUL = ("exact", "mixed axis frozen")  # what a rule must say of itself to be taken at its word


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
        if node.op_type == "Constant" or node in self.analyzer.unknown or graphs_of(node):
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
        for size in PROBES[:1] if fixed else PROBES:
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
            if math.prod(shape) > LARGEST:
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


def _spread(mask: Array, index: int, axes: LocalAxes, rank: int) -> Array:
    """Return where output 0 is known as far as input ``index`` goes; broadcasts to the output."""
    order: dict[int, int] = {}
    for axis in range(mask.ndim):
        out = axes.passing.get((index, axis))
        if out is not None and out not in order:
            order[out] = axis
    gone = tuple(a for a in range(mask.ndim) if a not in order.values())
    reduced = np.asarray(mask.all(axis=gone)) if gone else mask
    kept = [a for a in range(mask.ndim) if a in order.values()]
    outs = sorted(order)
    reduced = reduced.transpose([kept.index(order[o]) for o in outs])
    shape = [1] * rank
    for out, size in zip(outs, reduced.shape, strict=True):
        shape[out] = size
    spread: Array = reduced.reshape(shape)
    return spread
