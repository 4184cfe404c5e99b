"""What is known of a value: its elements that are compile-time constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxprune.passes.one_node import Array, widened

ROUNDING = 2e-6  # relative; what float32 sums in different orders differ by


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
        return np.asarray(np.abs(a - b) <= ROUNDING * np.abs(b))


def settle(values: Array, known: Array, forced: Sequence[bool]) -> Known | None:
    """Reduce uniform axes to size one; along ``forced`` axes what is not uniform is unknown."""
    if values.dtype.kind not in "fiub":
        return None
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones_like(values, np.bool_)
    known = np.asarray(finite & known)
    values = np.where(known, values, np.zeros((), values.dtype))
    for axis in range(values.ndim):
        if values.shape[axis] < 1:
            return None
        first = np.take(values, [0], axis), np.take(known, [0], axis)
        if forced[axis]:
            same = _same(values, first[0]).all(axis=axis, keepdims=True)
            known = np.asarray(known.all(axis=axis, keepdims=True) & same)
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


def full(known: Known | None, value: ir.Value, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return (values, known) of a value at full size; zeros where nothing is known."""
    if known is not None:
        return np.broadcast_to(known.values, shape), np.broadcast_to(known.known, shape)
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
    dtype = widened(np.empty(0, dtype)).dtype
    return np.broadcast_to(np.zeros((), dtype), shape), np.broadcast_to(np.False_, shape)
