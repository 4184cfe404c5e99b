"""What an integer input is for: an index into a table, a mask, or plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

_RELAYS = frozenset(
    (
        *("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand"),
        *("Tile", "Slice", "Split", "Dropout", "Clip", "Mod", "Compress", "Pad", "CastLike"),
        *("Gather", "GatherElements", "GatherND", "Trilu", "ReverseSequence"),
    )
)
_VARIADIC = frozenset(("Concat", "Max", "Min", "Sum"))
# Behind their first input these take sizes, counts and places rather than data.
_SIZED = frozenset(
    (
        *("Reshape", "Expand", "Tile", "Slice", "Split", "Pad", "Resize", "Upsample", "TopK"),
        *("Unsqueeze", "Squeeze", "OneHot", "Trilu", "CenterCropPad"),
    )
)
_ARITHMETIC = frozenset(("Add", "Sub", "Mul", "Div"))
_LOGIC = frozenset(
    (
        *("And", "Or", "Not", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
        *("NonZero", "ReduceSum", "CumSum", "ReduceMax"),
    )
)
_NUMERIC = frozenset(
    (
        *("Conv", "ConvInteger", "QLinearConv", "MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"),
        *("ConvTranspose", "LSTM", "GRU", "RNN", "DequantizeLinear", "Resize"),
    )
)
# com.microsoft EmbedLayerNormalization: which input each table (by its input index) is read with.
_EMBED_TABLES = {0: 2, 1: 4, 8: 3}


@dataclass
class IntegerUse:
    """What the graph does with an integer (or boolean) input.

    Attributes:
        bound: the values must be in [0, bound); None if no table limits them.
        mask: whether it selects: a condition, a factor, a comparison.
        data: whether it is computed with like a measurement.
        size: whether it is a shape, a count or a place.
    """

    bound: int | None = None
    mask: bool = False
    data: bool = False
    size: bool = False

    def limit(self, size: int) -> None:
        """Lower the bound to ``size``, but not below 1."""
        size = max(1, size)
        self.bound = size if self.bound is None else min(self.bound, size)


def integer_use(model: ir.Model, value: ir.Value) -> IntegerUse:
    """Return what ``model`` does with a graph input, following it to where it is used.

    Follows reshaping, casting and arithmetic with constants, into functions and loop bodies.
    """
    use = IntegerUse()
    seen: set[tuple[int, int]] = set()
    todo = [(value, 0)]
    while todo:
        current, shift = todo.pop()
        if (id(current), shift) in seen or len(seen) > 10_000:
            continue
        seen.add((id(current), shift))
        for node, index in current.uses():
            todo += _step(model, node, index, shift, use)
    return use


def _step(
    model: ir.Model, node: ir.Node, index: int, shift: int, use: IntegerUse
) -> Iterator[tuple[ir.Value, int]]:
    """Note in ``use`` what one consumer says; yield values that carry the integers on.

    ``shift`` is the largest constant added to them so far.
    """
    kind = node.op_type
    size = _table_size(node, index)
    if size is not None:
        use.limit(size - shift)
    elif kind in _ARITHMETIC:
        other = _constant(node.inputs[1 - index]) if len(node.inputs) == 2 else None
        if (kind == "Mul" and other is None) or (kind == "Sub" and index == 1):
            use.mask = True  # a factor, or 1 - x
        added = shift
        if kind == "Add" and other is not None and other.dtype.kind in "iu":
            added += max(0, int(other.max(initial=0)))
        yield from ((output, added) for output in node.outputs)
    elif _takes_size(kind, index):
        use.size = True
    elif (kind in _RELAYS and index == 0) or kind in _VARIADIC or (kind == "Where" and index > 0):
        yield from ((output, shift) for output in node.outputs)
    elif kind in _LOGIC or kind in ("Where", "If"):
        use.mask = True
    elif kind in _NUMERIC:
        use.data = True
    for inner in _inside(model, node, index):
        yield inner, shift


def _takes_size(kind: str, index: int) -> bool:
    """Whether input ``index`` of an operator is a shape, a count or a place."""
    if kind in ("Range", "ConstantOfShape"):
        return True
    return index > 0 if kind in _SIZED else (kind, index) == ("Loop", 0)


def _table_size(node: ir.Node, index: int) -> int | None:
    """Return how many entries the table has that input ``index`` of ``node`` indexes."""
    kind = node.op_type
    if kind in ("Gather", "GatherElements", "ScatterElements") and index == 1:
        shape = _shape(node.inputs[0])
        axis = node.attributes.get_int("axis", 0)
        return _entry(shape, axis)
    if kind in ("GatherND", "ScatterND") and index == 1:
        shape = _shape(node.inputs[0]) or ()
        sizes = [d for d in shape if isinstance(d, int)]
        return min(sizes) if sizes else None
    if kind == "OneHot" and index == 0:
        depth = _constant(node.inputs[1])
        return int(depth.reshape(-1)[0]) if depth is not None and depth.size else None
    if kind == "EmbedLayerNormalization" and index in _EMBED_TABLES:
        table = _EMBED_TABLES[index]
        return _entry(_shape(node.inputs[table]), 0) if table < len(node.inputs) else None
    return None


def _entry(shape: tuple[int | None, ...] | None, axis: int) -> int | None:
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    return shape[axis]


def _inside(model: ir.Model, node: ir.Node, index: int) -> Iterator[ir.Value]:
    """Yield what input ``index`` of a node is called inside its function or loop body."""
    function = model.functions.get(node.op_identifier())
    if function is not None and index < len(function.inputs):
        yield function.inputs[index]
    if node.op_type in ("Loop", "Scan"):
        body = node.attributes["body"].as_graph()
        if index < len(body.inputs):
            yield body.inputs[index]


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array a value always holds, or None."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Constant":
        held = ir.convenience.get_const_tensor(value)
        return None if held is None else held.numpy()
    if node.op_type in ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape"):
        return _constant(node.inputs[0])
    return None


def _shape(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Return what is known of a value's shape, looking behind casts of a constant."""
    if value is None:
        return None
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape.numpy())
    if value.shape is not None:
        return tuple(d if isinstance(d, int) else None for d in value.shape)
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("Identity", "Cast", "DequantizeLinear"):
        return _shape(node.inputs[0])
    if node.op_type == "Transpose":
        shape = _shape(node.inputs[0])
        if shape is not None:
            order = node.attributes.get_ints("perm", tuple(reversed(range(len(shape)))))
            return tuple(shape[i] for i in order)
    if node.op_type == "Constant":
        held = ir.convenience.get_const_tensor(value)
        return None if held is None else tuple(int(d) for d in held.shape.numpy())
    return None
