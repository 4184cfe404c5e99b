"""Masks held as bits: one eighth of what a bool array takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]


class Masks(MutableMapping[str, Mask]):
    """Masks by tensor name. Reading one makes a new bool array; change it and put it back.

    Attributes:
        hollow: how many of the weights that a mask keeps are zero all the same, where counted.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self.hollow: dict[str, int] = {}
        self._held: dict[str, tuple[Bits, tuple[int, ...]]] = {}

    def __getitem__(self, name: str) -> Mask:
        bits, shape = self._held[name]
        return np.unpackbits(bits, count=math.prod(shape)).view(np.bool_).reshape(shape)

    def __setitem__(self, name: str, mask: Mask) -> None:
        self.hollow.pop(name, None)
        self._held[name] = (np.packbits(np.asarray(mask, np.bool_).reshape(-1)), mask.shape)

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def bits(self, name: str) -> Bits:
        """Return a mask as bits, first one highest, the last byte filled up with zeros."""
        return self._held[name][0]

    def put(self, name: str, bits: Bits, shape: tuple[int, ...]) -> None:
        """Take over a mask that is bits already.

        Raises:
            ValueError: as many bits as the shape needs are not there.
        """
        if bits.size != -(-math.prod(shape) // 8):
            raise ValueError(f"{bits.size} bytes of bits for a mask of shape {shape}")
        self._held[name] = (bits, shape)

    def part(self, name: str, start: int, stop: int) -> Mask:
        """Return a run of a flattened mask; ``start`` is a multiple of 8."""
        bits = self._held[name][0][start // 8 : -(-stop // 8)]
        return np.unpackbits(bits, count=stop - start).view(np.bool_)

    def kept(self, name: str) -> int:
        """Return how many weights a mask keeps."""
        return int(np.bitwise_count(self._held[name][0]).sum())

    def size(self, name: str) -> int:
        """Return how many weights a mask speaks of."""
        return math.prod(self._held[name][1])
