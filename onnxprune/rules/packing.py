"""Weights of less than a byte, packed into bytes the way MatMulNBits stores them.

A weight of [N, K] is stored as uint8 [N, blocks, block * bits / 8]: K is cut into blocks, the last
one filled up, and inside a byte the earlier element has the lower bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def unpack_bits(packed: Array, bits: int) -> Array:
    """Return uint8 [..., n * 8 / bits] from uint8 [..., n], lower bits first."""
    if bits == 8:
        return packed
    per = 8 // bits
    out = np.empty((*packed.shape, per), np.uint8)
    for i in range(per):
        np.bitwise_and(packed >> np.uint8(i * bits), np.uint8((1 << bits) - 1), out=out[..., i])
    flat: Array = out.reshape(*packed.shape[:-1], packed.shape[-1] * per)
    return flat


def pack_bits(numbers: Array, bits: int) -> Array:
    """Undo :func:`unpack_bits`; the last axis is filled up with zeros to whole bytes."""
    if bits == 8:
        whole: Array = numbers.astype(np.uint8, copy=False)
        return whole
    per = 8 // bits
    length = -(-numbers.shape[-1] // per)
    full = np.zeros((*numbers.shape[:-1], length * per), np.uint8)
    full[..., : numbers.shape[-1]] = numbers
    lanes = full.reshape(*full.shape[:-1], length, per)
    out: Array = lanes[..., 0].copy()
    for i in range(1, per):
        out |= lanes[..., i] << np.uint8(i * bits)
    return out


@dataclass(frozen=True)
class Packing:
    """A matrix [rows, columns] of ``bits`` bits each, stored in blocks along its columns.

    Attributes:
        rows: N.
        columns: K.
        block: columns a block.
        bits: 2, 4 or 8.
    """

    rows: int
    columns: int
    block: int
    bits: int

    @property
    def blocks(self) -> int:
        """Blocks a row."""
        return -(-self.columns // self.block)

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """Shape of the bytes."""
        return (self.rows, self.blocks, self.block * self.bits // 8)

    def unpack(self, stored: Array) -> Array:
        """Return uint8 [rows, columns] from the bytes."""
        flat = unpack_bits(np.asarray(stored).reshape(self.stored_shape), self.bits)
        numbers: Array = flat.reshape(self.rows, -1)[:, : self.columns]
        return numbers

    def pack(self, numbers: Array, like: Array) -> Array:
        """Return ``numbers`` [rows, columns] as bytes; what fills up is that of ``like``."""
        full = unpack_bits(np.asarray(like).reshape(self.stored_shape), self.bits)
        full = np.array(full.reshape(self.rows, -1))
        full[:, : self.columns] = numbers
        cells = full.reshape(self.rows, self.blocks, self.block)
        return pack_bits(cells, self.bits).reshape(np.asarray(like).shape)
