"""Integers that a graph computes from shapes, followed symbolically.

Exporters write ``x.view(x.size(0), -1)`` as Shape -> Gather -> Unsqueeze -> Concat -> Reshape. To
prune the axis behind such a number one must know where the number comes from: a literal in the
file, exactly the size of some axis, or arithmetic on sizes. This module interprets the small
integer tensors of a graph into :class:`Entry` values that remember this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.rules.symbols import factors_of, product_name

Leaf = tuple[ir.Value, int]
LIMIT = 64  # elements; shapes are short, anything longer is data
INT_TYPES = {
    ir.DataType.INT64,
    ir.DataType.INT32,
    ir.DataType.FLOAT,
    ir.DataType.BOOL,
    ir.DataType.DOUBLE,
}


@dataclass(frozen=True)
class Entry:
    """One number of a size vector.

    Attributes:
        value: the number, when known; an int, or a float in the middle of a computation.
        leaf: (value, axis) when the number is exactly the size of that axis.
        leaves: every axis whose size the number depends on.
    """

    value: float | None
    leaf: Leaf | None = None
    leaves: frozenset[Leaf] = frozenset()


Sizes = np.ndarray[Any, np.dtype[np.object_]]


def _array(entries: list[Entry], shape: tuple[int, ...]) -> Sizes:
    out = np.empty(len(entries), dtype=object)
    out[:] = entries
    return out.reshape(shape)


def literal(array: np.ndarray[Any, Any]) -> Sizes:
    """Return the size vector of a constant."""
    return _array([Entry(v.item()) for v in array.reshape(-1)], array.shape)


def _combine(fn: Callable[..., float], *parts: Entry) -> Entry:
    leaves = frozenset().union(*(p.leaves for p in parts))
    known = [p.value for p in parts]
    if any(v is None for v in known):
        return Entry(None, None, leaves)
    try:
        return Entry(fn(*known), None, leaves)
    except (ZeroDivisionError, OverflowError, ValueError):
        return Entry(None, None, leaves)


def _div(a: float, b: float) -> float:
    return math.trunc(a / b) if isinstance(a, int) and isinstance(b, int) else a / b


ARITHMETIC: dict[str, Callable[..., float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _div,
    "Mod": lambda a, b: a % b,
    "Max": max,
    "Min": min,
    "Neg": lambda a: -a,
    "Floor": math.floor,
    "Ceil": math.ceil,
    "Equal": lambda a, b: a == b,
    "Where": lambda c, a, b: a if c else b,
}


REDUCTIONS: dict[str, Callable[[tuple[float, ...]], float]] = {
    "ReduceProd": math.prod,
    "ReduceSum": sum,
    "ReduceMax": max,
    "ReduceMin": min,
}


class SizeTracer:
    """Interprets nodes in graph order; ``of(value)`` is None for what is not a size vector."""

    def __init__(
        self,
        const: Callable[[ir.Value], ir.TensorProtocol | None],
        dims: Callable[[ir.Value], list[int | str | None] | None],
    ) -> None:
        self._const = const
        self._dims = dims
        self._known: dict[ir.Value, Sizes | None] = {}

    def of(self, value: ir.Value | None) -> Sizes | None:
        """Return the entries of ``value``, shaped like it."""
        if value is None:
            return None
        if value not in self._known:
            tensor = self._const(value)
            small = tensor is not None and tensor.size <= LIMIT and tensor.dtype in INT_TYPES
            self._known[value] = literal(tensor.numpy()) if small and tensor is not None else None
        return self._known[value]

    def visit(self, node: ir.Node) -> bool:
        """Interpret one node; return whether its output is a size vector now."""
        if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1:
            return False
        try:
            result = self._interpret(node)
        except (IndexError, ValueError, TypeError, KeyError, OverflowError):
            result = None
        if isinstance(result, Entry):  # numpy hands out the element itself for a scalar index
            result = _array([result], ())
        if result is not None and result.size > LIMIT:
            result = None
        self._known[node.outputs[0]] = result
        return result is not None

    def _interpret(self, node: ir.Node) -> Sizes | Entry | None:
        op = node.op_type
        if op == "Shape":
            return self._shape(node)
        if op == "Size":
            return self._count(node)
        args = [self.of(v) for v in node.inputs]
        if not args or args[0] is None:
            return None
        if op in ("Identity", "Cast"):
            if op == "Cast":
                return self._cast(node, args[0])
            return args[0]
        if any(a is None for a in args):
            return None
        parts = [a for a in args if a is not None]
        if op in ARITHMETIC:
            return self._arithmetic(op, parts)
        if op in ("Unsqueeze", "Squeeze"):
            return self._reaxis(node, parts)
        if op == "Reshape":
            return parts[0].reshape([int(e.value) for e in parts[1].reshape(-1)])
        if op == "Concat":
            return np.concatenate(parts, axis=_int_attr(node, "axis", 0))
        if op == "Gather":
            index = np.vectorize(lambda e: int(e.value), otypes=[np.int64])(parts[1])
            taken: Sizes | Entry = np.take(parts[0], index, axis=_int_attr(node, "axis", 0))
            return taken
        if op == "Slice":
            return self._slice(node, parts)
        if op == "Transpose":
            perm = node.attributes.get("perm")
            moved: Sizes = parts[0].transpose(perm.as_ints() if perm is not None else None)
            return moved
        if op == "ConstantOfShape":
            return self._fill(node, parts[0])
        if op in REDUCTIONS:
            # A vector has one axis, so whatever says which axes go says that one.
            if parts[0].ndim != 1 or _int_attr(node, "noop_with_empty_axes", 0):
                return None
            total = _combine(lambda *v: REDUCTIONS[op](v), *parts[0].reshape(-1))
            return _array([total], (1,) if _int_attr(node, "keepdims", 1) else ())
        return None

    def _shape(self, node: ir.Node) -> Sizes | None:
        source = node.inputs[0]
        dims = None if source is None else self._dims(source)
        if source is None or dims is None:
            return None
        entries = [
            Entry(d if isinstance(d, int) else None, (source, i), frozenset({(source, i)}))
            for i, d in enumerate(dims)
        ]
        if self._const(source) is not None and sum(d != 1 for d in dims) <= 1:
            # A constant vector is cut use by use; this use of it stays whole.
            entries = [Entry(e.value) for e in entries]
        start, end = _int_attr(node, "start", 0), _int_attr(node, "end", len(entries))
        part = entries[start:end]
        return _array(part, (len(part),))

    def _count(self, node: ir.Node) -> Entry | None:
        """Return the number of elements of a tensor."""
        counted = self.of(node.inputs[0])
        if counted is not None:
            return Entry(counted.size)
        shape = self._shape(node)
        return None if shape is None else _combine(lambda *v: math.prod(v), *shape.reshape(-1))

    def _cast(self, node: ir.Node, arg: Sizes) -> Sizes | None:
        to = ir.DataType(_int_attr(node, "to", 1))
        if to not in INT_TYPES:
            return None
        if to in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return arg
        entries = [
            e
            if e.value is None or isinstance(e.value, int)
            else Entry(int(e.value), e.leaf, e.leaves)
            for e in arg.reshape(-1)
        ]
        return _array(entries, arg.shape)

    def _arithmetic(self, op: str, parts: list[Sizes]) -> Sizes:
        wide = np.broadcast_arrays(*parts)
        flat = [w.reshape(-1) for w in wide]
        out: list[Entry] = []
        for row in zip(*flat, strict=True):
            if op == "Where" and row[0].value is not None:
                out.append(row[1] if row[0].value else row[2])
            elif op == "Equal" and _cannot_equal(row[0], row[1]):
                out.append(Entry(False))  # exporters ask whether a size is -1
            else:
                out.append(_combine(ARITHMETIC[op], *row))
        return _array(out, wide[0].shape)

    def _reaxis(self, node: ir.Node, parts: list[Sizes]) -> Sizes:
        if len(parts) > 1:
            axes = tuple(int(e.value) for e in parts[1].reshape(-1))
        else:
            attr = node.attributes.get("axes")
            axes = tuple(attr.as_ints()) if attr is not None else ()
        if node.op_type == "Unsqueeze":
            return np.expand_dims(parts[0], axes)
        return np.squeeze(parts[0], axes or None)

    def _fill(self, node: ir.Node, shape: Sizes) -> Sizes | None:
        dims = [int(e.value) for e in shape.reshape(-1)]
        attr = node.attributes.get("value")
        number = attr.as_tensor().numpy().item() if attr is not None else 0.0
        if math.prod(dims) > LIMIT:
            return None
        return _array([Entry(number)] * math.prod(dims), tuple(dims))

    def _slice(self, node: ir.Node, parts: list[Sizes]) -> Sizes:
        if len(parts) > 1:
            numbers = [[int(e.value) for e in p.reshape(-1)] for p in parts[1:]]
        else:
            numbers = [list(node.attributes[k].as_ints()) for k in ("starts", "ends")]
            if "axes" in node.attributes:
                numbers.append(list(node.attributes["axes"].as_ints()))
        starts, ends = numbers[:2]
        axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
        steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
        cut = [slice(None)] * parts[0].ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            cut[axis] = slice(start, _slice_end(end, step), step)
        return parts[0][tuple(cut)]


def _cannot_equal(a: Entry, b: Entry) -> bool:
    """Return whether one is a size, whichever, and the other a negative number."""
    return any(
        x.value is None and x.leaf is not None and y.value is not None and y.value < 0
        for x, y in ((a, b), (b, a))
    )


def _slice_end(end: int, step: int) -> int | None:
    return None if (step < 0 and end < -(2**31)) else end


def _int_attr(node: ir.Node, name: str, default: int) -> int:
    attr = node.attributes.get(name)
    return default if attr is None else int(attr.value)


def reshape_dims(
    source: list[int | str | None], target: list[Entry], allow_zero: bool
) -> list[int | str | None]:
    """Return the dims a Reshape gives, as far as they can be known.

    Args:
        source: dims of the data.
        target: the target shape; an entry that is exactly the size of an axis carries its symbol.
        allow_zero: 0 means zero, not copy.
    """
    out: list[int | str | None] = []
    hole: int | None = None
    for position, entry in enumerate(target):
        if entry.value == -1:
            hole = position
            out.append(None)
        elif entry.value == 0 and not allow_zero:
            out.append(source[position] if position < len(source) else None)
        elif entry.value is not None:
            out.append(int(entry.value))
        else:
            out.append(_symbol(entry))
    if hole is not None:
        out[hole] = _rest(source, [d for i, d in enumerate(out) if i != hole])
    return out


def expand_dims(source: list[int | str | None], target: list[Entry]) -> list[int | str | None]:
    """Return the dims an Expand gives, as far as they can be known.

    Args:
        source: dims of the data.
        target: the shape it is broadcast with.
    """
    rank = max(len(source), len(target))
    old = [1] * (rank - len(source)) + source
    new = [Entry(1)] * (rank - len(target)) + target
    out: list[int | str | None] = []
    for dim, entry in zip(old, new, strict=True):
        if entry.value == 1 or (isinstance(dim, int) and dim != 1):
            out.append(dim)
        elif entry.value is not None:
            out.append(int(entry.value))
        else:
            symbol = _symbol(entry)
            out.append(symbol if dim == 1 or dim == symbol else None)
    return out


def _symbol(entry: Entry) -> str | None:
    if entry.leaf is None or entry.leaf[0].shape is None:
        return None
    dim = entry.leaf[0].shape[entry.leaf[1]]
    return None if isinstance(dim, int) else dim.value


def _rest(source: list[int | str | None], others: list[int | str | None]) -> int | str | None:
    """Divide the product of ``source`` by that of ``others``, symbols cancelling by name.

    What is left of several symbols is named by their product (:func:`symbols.product_name`), so
    that a reshape which takes it apart again can be read.
    """
    if None in source or None in others:
        return None
    total, left = factors_of(source)
    known, given = factors_of(others)
    for name in given:
        if name not in left:
            return None
        left.remove(name)
    if known == 0 or total % known:
        return None
    return product_name(total // known, left)


def learn_shape(
    tracer: SizeTracer, node: ir.Node, dims_of: Callable[[ir.Value], list[int | str | None] | None]
) -> int:
    """Give a Reshape, Expand or Slice the dims that inference could not follow; return 1 if any."""
    known = _known_dims(tracer, node, dims_of)
    if known is None:
        return 0
    dims = known
    out = node.outputs[0]
    old = dims_of(out)
    if old is None:
        merged = dims
    elif len(old) != len(dims):
        return 0
    else:
        # A symbol of the model beats one that inference made up for want of a better.
        merged = [
            b if b is not None and not isinstance(a, int) else a
            for a, b in zip(old, dims, strict=True)
        ]
    if merged == old:
        return 0
    out.shape = ir.Shape(merged)
    return 1


def _known_dims(
    tracer: SizeTracer, node: ir.Node, dims_of: Callable[[ir.Value], list[int | str | None] | None]
) -> list[int | str | None] | None:
    """Return what is known of the dims that a node gives its result."""
    if node.op_type not in ("Reshape", "Expand", "Slice") or len(node.inputs) < 2:
        return None
    source = None if node.inputs[0] is None else dims_of(node.inputs[0])
    if source is None:
        return None
    if node.op_type == "Slice":
        cut = _cut_axes(tracer, node, len(source))
        return None if cut is None else [None if i in cut else d for i, d in enumerate(source)]
    entries = tracer.of(node.inputs[1])
    if entries is None:
        return None
    target = list(entries.reshape(-1))
    if node.op_type == "Expand":
        return expand_dims(source, target)
    attr = node.attributes.get("allowzero")
    return reshape_dims(source, target, bool(attr and attr.as_int()))


def _cut_axes(tracer: SizeTracer, node: ir.Node, rank: int) -> set[int] | None:
    """Return the axes that a Slice names, None if they are not known."""
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return set(range(rank))
    named = tracer.of(node.inputs[3])
    axes = [] if named is None else [entry.value for entry in named.reshape(-1)]
    if named is None or None in axes:
        return None
    return {int(axis) % rank for axis in axes if axis is not None}
