"""Constants seen through what stands between them and their use.

A weight may be stored as integers with a scale and a zero point, transposed, cast, in blocks,
packed: ``number = (stored - zero) * scale``. Scores are computed from the numbers, masks are
written as the zero point. :mod:`.reading` finds out how a constant is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.rules.packing import Packing

Array = np.ndarray[Any, Any]
REALS = {
    t
    for t in ir.DataType
    if t != ir.DataType.UNDEFINED and t.is_floating_point() and t.name != "FLOAT8E8M0"
}


@dataclass(frozen=True)
class Reading:
    """How one use reads a constant; arrays broadcast against the constant's logical shape."""

    scale: Array | None = None
    zero: Array | None = None
    real: bool = False
    fault: str = ""


@dataclass
class Stored:
    """A constant and the numbers it stands for.

    Attributes:
        tensor: what is stored.
        packing: how, if packed; then the logical shape is [rows, columns].
        readings: one for every different way it is used; the first one gives the scale.
    """

    tensor: ir.TensorProtocol
    packing: Packing | None
    readings: tuple[Reading, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        if self.packing is not None:
            return (self.packing.rows, self.packing.columns)
        return tuple(int(n) for n in self.tensor.shape.numpy())

    @property
    def quantised(self) -> bool:
        """Whether what is stored differs from the numbers."""
        first = self.readings[0] if self.readings else Reading()
        return (
            self.packing is not None
            or first.scale is not None
            or first.zero is not None
            or self.tensor.dtype not in REALS
        )

    @property
    def per_element(self) -> int:
        """Numbers in one element of what is stored."""
        return 1 if self.packing is None else 8 // self.packing.bits

    @cached_property
    def fault(self) -> str:
        """Why no stored value stands for zero at every use; empty if one does."""
        for reading in self.readings:
            if reading.fault:
                return reading.fault
        zeros = [reading.zero for reading in self.readings]
        first = zeros[0] if zeros else None
        for other in zeros[1:]:
            if not _equal(first, other):
                return "its uses have different zero points"
        if first is None or self.tensor.dtype in REALS:
            return ""
        low, high = (0, 255) if self.packing is None else (0, (1 << self.packing.bits) - 1)
        if self.packing is None:
            low, high = int(self.tensor.dtype.min), int(self.tensor.dtype.max)
        exact = np.asarray(first, np.float64)
        if (exact != np.rint(exact)).any() or (exact < low).any() or (exact > high).any():
            return "no stored number stands for zero: its zero point lies between two"
        return ""

    @property
    def zero(self) -> Array:
        """What stands for zero, in the type that is stored, broadcasting against the numbers."""
        held = None if not self.readings else self.readings[0].zero
        dtype = np.dtype(np.uint8) if self.packing else np.dtype(self.tensor.dtype.numpy())
        if held is None:
            return np.zeros([1] * len(self.shape), dtype)
        return held if held.dtype == dtype else held.astype(dtype)

    def plain(self, tensor: ir.TensorProtocol | None = None) -> Array:
        """Return what is stored, unpacked, in the shape of the numbers."""
        array = np.asarray((self.tensor if tensor is None else tensor).numpy())
        return array if self.packing is None else self.packing.unpack(array)

    def numbers(self, tensor: ir.TensorProtocol | None = None) -> Array:
        """Return the numbers: the floats that are stored, or float32 made from integers."""
        array = self.plain(tensor)
        first = self.readings[0] if self.readings else Reading()
        if not self.quantised:
            return array
        made = array.astype(np.float32)
        if first.zero is not None:
            made -= first.zero.astype(np.float32)
        if first.scale is not None:
            made *= first.scale.astype(np.float32)
        return made

    def by_axis(self) -> Array:
        """Return the numbers so that the first axes are those of what is stored."""
        if self.packing is None:
            return self.numbers()
        p = self.packing
        full = np.zeros((p.rows, p.blocks * p.block), np.float32)
        full[:, : p.columns] = self.numbers()
        return full.reshape(p.rows, p.blocks, p.block)

    def is_zero(self, tensor: ir.TensorProtocol | None = None) -> Array:
        """Return, number by number, whether it is zero."""
        array = self.plain(tensor)
        held = self.readings[0].zero if self.readings else None
        zero: Array = array == (0 if held is None else self.zero)
        return zero

    def masked(self, mask: Array, array: Array) -> Array:
        """Return what is to be stored so that numbers are zero where ``mask`` is False.

        Args:
            mask: bool, shape of the numbers, True is kept.
            array: what is stored now.
        """
        if self.packing is None:
            return select(mask, array, None if self._plain_zero else self.zero)
        plain = self.packing.unpack(array)
        return self.packing.pack(np.where(mask, plain, self.zero), array)

    @property
    def _plain_zero(self) -> bool:
        return not self.readings or self.readings[0].zero is None

    def stored_zero(self) -> Array:
        """Return what stands for zero, broadcasting against what is stored."""
        if self.packing is None:
            return self.zero
        p = self.packing
        full = np.zeros((p.rows, p.blocks * p.block), np.uint8)
        full[:, : p.columns] = self.zero
        like = np.zeros(p.stored_shape, np.uint8)
        wide = replace(p, columns=p.blocks * p.block)
        return wide.pack(full, like).reshape(tuple(self.tensor.shape.numpy()))

    def rounded(self, numbers: Array) -> Array:
        """Return the stored values nearest to ``numbers``; a zero stays exactly zero."""
        first = self.readings[0] if self.readings else Reading()
        if not self.quantised:
            return numbers.astype(self.tensor.dtype.numpy())
        scaled = np.asarray(numbers, np.float32)
        if first.scale is not None:
            scale = first.scale.astype(np.float32)
            scaled = np.divide(scaled, scale, where=scale != 0, out=np.zeros_like(scaled))
        if first.zero is not None:
            scaled = scaled + first.zero.astype(np.float32)
        dtype = self.tensor.dtype
        if dtype in REALS:
            return scaled.astype(dtype.numpy())
        low, high = (
            (int(dtype.min), int(dtype.max))
            if self.packing is None
            else (0, (1 << self.packing.bits) - 1)
        )
        whole = np.clip(np.rint(scaled), low, high)
        if self.packing is None:
            return whole.astype(np.int32).astype(dtype.numpy())
        return self.packing.pack(whole.astype(np.uint8), np.asarray(self.tensor.numpy()))


def select(mask: Array, array: Array, zero: Array | None = None) -> Array:
    """Return ``array`` where ``mask`` is True and ``zero`` (None: 0) elsewhere, a new array."""
    # Bits of 0 or -1 let a value pass or not. Choosing with a mask that is as good as random costs
    # a processor more than ten times as much.
    bits = np.dtype(f"i{array.dtype.itemsize}")
    passing = np.negative(mask.view(np.int8)).astype(bits)
    chosen = passing & np.ascontiguousarray(array).view(bits)
    if zero is not None:
        np.invert(passing, out=passing)
        passing &= np.ascontiguousarray(zero).view(bits)
        chosen |= passing
    made: Array = chosen.view(array.dtype)
    return made


def _equal(a: Array | None, b: Array | None) -> bool:
    if a is None or b is None:
        held = a if a is not None else b
        return held is None or not np.any(held)
    try:
        return bool((a == b).all())
    except ValueError:  # shapes that do not broadcast
        return False
