"""Kernels: the whole spatial kernel between one input and one output channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.patterns.base import PATTERNS, FloatArray, Mask, Pattern
from onnxprune.patterns.select import sum_runs


@PATTERNS.member("kernel")
@dataclass(frozen=True)
class Kernel(Pattern):
    """The kernel of one (output, input) pair lives or dies as a whole (connectivity pruning).

    For a 1x1 convolution that is a single weight. A matrix product has no kernels and misfits.
    """

    syntax: ClassVar[str] = "kernel"
    summary: ClassVar[str] = "the whole kernel between one input and one output channel"
    examples: ClassVar[tuple[str, ...]] = ("kernel",)

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return "kernel"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        return cls() if text == "kernel" else None

    def misfit(self, shape: Sequence[int]) -> str | None:
        """See :meth:`Pattern.misfit`: there must be kernel axes."""
        return None if len(shape) > 3 else "it has no kernel axes; element or block would fit"

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: [G, O, I]."""
        return tuple(shape[:3])

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        positions = math.prod(saliency.shape[3:])
        if positions == 1:
            return saliency.reshape(-1)
        return sum_runs(saliency.reshape(-1, positions), 1, positions).reshape(-1)

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`."""
        return np.repeat(keep_units, math.prod(shape[3:])).reshape(tuple(shape))
