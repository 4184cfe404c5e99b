"""Vectors: one row of a convolution kernel, or V consecutive inputs of one output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.patterns.base import PATTERNS, FloatArray, IntArray, Mask, Pattern
from onnxprune.patterns.select import sum_runs

_FORM = re.compile(r"vector(?::(.*))?")
DEFAULT_LENGTH = 4
"""Inputs per vector where there is no kernel row: one 16-byte load of float32."""


@PATTERNS.member("vector")
@dataclass(frozen=True)
class Vector(Pattern):
    """One row of the kernel of one (output, input) pair.

    The row runs along the last kernel axis longer than 1 (a 3x3 kernel has 3 rows, a 3x1 or a
    1-D kernel is one row). A weight without such an axis (a matrix product, a 1x1 convolution)
    has no rows: there a vector is ``length`` consecutive inputs of one output, the last one
    shorter where ``length`` does not divide the inputs.
    """

    length: int = DEFAULT_LENGTH
    syntax: ClassVar[str] = "vector[:V]"
    summary: ClassVar[str] = (
        f"one kernel row; V (default {DEFAULT_LENGTH}) consecutive inputs where there is no kernel"
    )
    examples: ClassVar[tuple[str, ...]] = ("vector", "vector:8")

    def __post_init__(self) -> None:
        """Refuse empty vectors."""
        if self.length < 1:
            raise UsageError(
                f"pattern vector:{self.length} cannot be meant: a vector has at least one weight"
            )

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return "vector" if self.length == DEFAULT_LENGTH else f"vector:{self.length}"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        if found[1] is None:
            return cls()
        if not found[1].isdecimal():
            raise UsageError(f"pattern {text!r}: the length is not a number; write e.g. vector:8")
        return cls(int(found[1]))

    def runs(self, shape: Sequence[int]) -> tuple[int, int]:
        """See :meth:`Pattern.runs`: where vectors are rows of kernels, channels are not tied."""
        axis, length = self._run(shape)
        return 1, length if axis == 2 else 1

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: ceil(n / length) along the axis the vectors run along."""
        axis, length = self._run(shape)
        cells = list(shape)
        cells[axis] = -(-cells[axis] // length)
        return tuple(cells)

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        axis, length = self._run(saliency.shape)
        return saliency.reshape(-1) if length == 1 else sum_runs(saliency, axis, length).reshape(-1)

    def unit_sizes(self, shape: Sequence[int]) -> IntArray:
        """See :meth:`Pattern.unit_sizes`."""
        axis, length = self._run(shape)
        if shape[axis] % length == 0:
            return super().unit_sizes(shape)
        runs = np.diff(np.append(np.arange(0, shape[axis], length), shape[axis])).astype(np.int64)
        runs = runs.reshape(-1, *(1,) * (len(shape) - axis - 1))
        return np.broadcast_to(runs, self.grid(shape)).reshape(-1)

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`."""
        axis, length = self._run(shape)
        mask = keep_units.reshape(self.grid(shape))
        if length == 1:
            return mask
        edge = (slice(None),) * axis + (slice(shape[axis]),)
        return np.ascontiguousarray(np.repeat(mask, length, axis=axis)[edge])

    def _run(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (axis, length) of the vectors of a weight of ``shape``."""
        for axis in range(len(shape) - 1, 2, -1):
            if shape[axis] > 1:
                return axis, shape[axis]
        return 2, self.length
