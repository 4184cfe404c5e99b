"""How constants are read: followed from where they are stored to what uses them.

Rules say what a node takes an operand for (:meth:`.view.NodeView.quantised`); on the way from a
constant to such a node lie casts, transposes and factors. All of it is summed up per use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxprune.rules.packing import Packing, unpack_bits
from onnxprune.rules.stored import REALS, Array, Reading, Stored

if TYPE_CHECKING:
    from onnxprune.rules.analysis import Analyzer

Undo = Callable[[Array], Array]
RELAYS = ("Identity", "Cast", "CastLike", "QuantizeLinear")
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
DEEPEST = 16  # layout changes on the way from a constant to its use; beyond, nobody follows


@dataclass(frozen=True)
class Scheme:
    """What a node takes the numbers of one operand for: ``(x - zero) * scale``.

    Attributes:
        scale: None where the node does not know it (integer products).
        zero: None for zero, or for the middle of the range of packed numbers.
        axis: of the operand, along which a vector of scales or of zero points runs; several for
            scales of as many axes.
        block: numbers along ``axis`` that share a scale, 0 if not in blocks.
        packing: how the numbers are packed.
        order: the block of every number along ``axis``, where they are not in order.
    """

    scale: ir.Value | None = None
    zero: ir.Value | None = None
    axis: int | tuple[int, ...] = 0
    block: int = 0
    packing: Packing | None = None
    order: ir.Value | None = None


def read(analyzer: Analyzer, value: ir.Value) -> Stored | None:
    """Follow a constant to its uses.

    Returns:
        None for what is no constant, and for integers that stand for themselves.
    """
    tensor = analyzer.tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    walk = _Walk(analyzer, tensor)
    walk.follow(value, Reading(real=tensor.dtype in REALS), [], 0)
    if not any(r.real for r in walk.found):
        return None
    # A use that reads integers as they are (Shape, say) does not say what they stand for.
    distinct: list[Reading] = []
    for reading in walk.found:
        if reading.real and not any(r is reading for r in distinct):
            distinct.append(reading)
    return Stored(tensor, walk.packing, tuple(distinct))


class _Walk:
    """Collects the readings of one constant."""

    def __init__(self, analyzer: Analyzer, tensor: ir.TensorProtocol) -> None:
        self.analyzer = analyzer
        self.tensor = tensor
        self.packing: Packing | None = None
        self.found: list[Reading] = []

    def follow(
        self,
        value: ir.Value,
        reading: Reading,
        back: list[Undo],
        quantised: int,
    ) -> None:
        """Read ``value``, which is the constant after layout changes that ``back`` undoes."""
        uses = list(value.uses())
        if value.is_graph_output() or not uses:
            self.found.append(reading)
        if len(back) > DEEPEST:
            return
        for use in uses:
            self._use(use.node, use.idx, value, reading, back, quantised)

    def _use(
        self,
        node: ir.Node,
        index: int,
        value: ir.Value,
        reading: Reading,
        back: list[Undo],
        quantised: int,
    ) -> None:
        scheme = self.analyzer.schemes.get((node, index))
        op = node.op_type
        if scheme is not None and not (quantised and op == "DequantizeLinear"):
            told = self._through(scheme, value, reading, back)
            if op == "DequantizeLinear":
                self.follow(node.outputs[0], told, back, quantised)
            else:
                self.found.append(told)
        elif index == 0 and op == "DequantizeLinear" and quantised:
            self.follow(node.outputs[0], reading, back, quantised - 1)
        elif index == 0 and op in RELAYS:
            real = reading.real or (op == "Cast" and node.outputs[0].dtype in REALS)
            deeper = quantised + (op == "QuantizeLinear")
            self.follow(node.outputs[0], replace(reading, real=real), back, deeper)
        elif index == 0 and op in ("Transpose", *RESHAPES):
            self._layout(node, value, reading, back, quantised)
        elif op in ("Mul", "Div", "Sub") and reading.real:
            self._arithmetic(node, index, value, reading, back, quantised)
        else:
            self.found.append(reading)

    def _shape(self, value: ir.Value) -> list[int] | None:
        dims = self.analyzer.dims(value)
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return [d for d in dims if isinstance(d, int)]

    def _layout(
        self,
        node: ir.Node,
        value: ir.Value,
        reading: Reading,
        back: list[Undo],
        quantised: int,
    ) -> None:
        before, after = self._shape(value), self._shape(node.outputs[0])
        if before is None or after is None:
            self.found.append(replace(reading, fault="its shape on the way cannot be inferred"))
            return
        undo: Undo
        if node.op_type == "Transpose":
            attr = node.attributes.get("perm")
            perm = list(attr.as_ints()) if attr is not None else list(range(len(before)))[::-1]
            inverse = np.argsort(perm).tolist()

            def undo(array: Array) -> Array:
                turned: Array = array.transpose(inverse)
                return turned
        else:

            def undo(array: Array) -> Array:
                return np.broadcast_to(array, after).reshape(before)

        self.follow(node.outputs[0], reading, [*back, undo], quantised)

    def _arithmetic(
        self,
        node: ir.Node,
        index: int,
        value: ir.Value,
        reading: Reading,
        back: list[Undo],
        quantised: int,
    ) -> None:
        """Follow a constant that is shifted or scaled by another, smaller one."""
        other = node.inputs[1 - index] if len(node.inputs) == 2 else None
        tensor = None if other is None else self.analyzer.tensor(other)
        shape = self._shape(value)
        fits = (
            tensor is not None
            and shape is not None
            and self._shape(node.outputs[0]) == shape
            and tensor.size < max(self.tensor.size, 2)
            and (node.op_type == "Mul" or index == 0)
            and not quantised
        )
        shift = node.op_type == "Sub"
        if not fits or (shift and (reading.scale is not None or reading.zero is not None)):
            self.found.append(reading)
            return
        assert tensor is not None and shape is not None
        array = np.asarray(tensor.numpy())
        array = self._back(array.reshape([1] * (len(shape) - array.ndim) + list(array.shape)), back)
        if shift:
            told = replace(reading, zero=array)
        else:
            factor = array.astype(np.float32)
            if node.op_type == "Div":
                factor = np.float32(1) / factor
            told = replace(
                reading, scale=factor if reading.scale is None else reading.scale * factor
            )
        self.follow(node.outputs[0], told, back, quantised)

    @staticmethod
    def _back(array: Array, back: list[Undo]) -> Array:
        for undo in reversed(back):
            array = undo(array)
        return array

    def _through(
        self,
        scheme: Scheme,
        value: ir.Value,
        reading: Reading,
        back: list[Undo],
    ) -> Reading:
        shape = self._shape(value)
        if scheme.packing is not None:
            if back or self.packing not in (None, scheme.packing):
                return replace(reading, real=True, fault="it is packed in two ways")
            self.packing = scheme.packing
            shape = [scheme.packing.rows, scheme.packing.columns]
        if shape is None:
            return replace(reading, real=True, fault="its shape cannot be inferred")
        fault = reading.fault
        arrays: list[Array | None] = []
        for part, is_zero in ((scheme.scale, False), (scheme.zero, True)):
            tensor = None if part is None else self.analyzer.tensor(part)
            if part is not None and tensor is None and is_zero:
                fault = "its zero point is not a constant"
            array = None if tensor is None else np.asarray(tensor.numpy())
            if array is None and is_zero and part is None and scheme.packing is not None:
                array = np.array(1 << (scheme.packing.bits - 1), np.uint8)
            if array is None or (is_zero and not np.any(array)):
                arrays.append(None)
                continue
            spread = self._spread(array, scheme, shape)
            if spread is None:
                fault = "its scale or zero point has a shape that does not fit"
            arrays.append(None if spread is None else self._back(spread, back))
        scale, zero = arrays
        if scale is not None and reading.scale is not None:
            scale = scale * reading.scale
        return Reading(scale, zero if zero is not None else reading.zero, True, fault)

    def _spread(self, array: Array, scheme: Scheme, shape: list[int]) -> Array | None:
        """Return a scale or zero point broadcasting against ``shape``."""
        if array.size == 1:
            return array.reshape([1] * len(shape))
        if isinstance(scheme.axis, tuple):
            axes = [a for a in scheme.axis if array.ndim == len(scheme.axis) or shape[a] > 1]
            fitting = [1] * len(shape)
            for at, size in zip(axes, array.shape, strict=False):
                fitting[at] = size
            fits = all(a in (1, n) for a, n in zip(fitting, shape, strict=True))
            return array.reshape(fitting) if fits and array.size == np.prod(fitting) else None
        axis = scheme.axis % len(shape)
        if scheme.block:
            if scheme.packing is not None:
                array = _blocks(array, scheme.packing)
            if array.ndim != len(shape):
                return None
            order = None if scheme.order is None else self.analyzer.tensor(scheme.order)
            if order is not None:
                return np.take(array, np.asarray(order.numpy()), axis=axis)
            spread = np.repeat(array, scheme.block, axis=axis)
            return spread[(slice(None),) * axis + (slice(shape[axis]),)]
        if array.ndim == 1 and array.size == shape[axis]:
            return array.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        if array.ndim == len(shape) and all(
            a in (1, n) for a, n in zip(array.shape, shape, strict=True)
        ):
            return array
        return None


def _blocks(array: Array, packing: Packing) -> Array:
    """Return scales or zero points of packed weights as [rows, blocks]."""
    if array.dtype != np.uint8:  # not packed
        return array.reshape(packing.rows, packing.blocks)
    return unpack_bits(array.reshape(packing.rows, -1), packing.bits)[:, : packing.blocks]
