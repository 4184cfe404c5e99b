"""Channels: whole outputs, the units that can be deleted from the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.patterns.base import PATTERNS, FloatArray, Mask, Pattern


@PATTERNS.member("channel")
@dataclass(frozen=True)
class Channel(Pattern):
    """All weights of one output channel.

    In a graph the unit is larger than one weight's slice: the coupled channels of all tensors that
    must shrink together. Those units come from the axes of the graph; the methods here describe
    the slice of a single weight.
    """

    syntax: ClassVar[str] = "channel"
    summary: ClassVar[str] = "whole channels, deleted from the graph with all they are coupled to"
    examples: ClassVar[tuple[str, ...]] = ("channel",)
    structural: ClassVar[bool] = True

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return "channel"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        return cls() if text == "channel" else None

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: [G, O]."""
        return tuple(shape[:2])

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        total: FloatArray = saliency.reshape(self.n_units(saliency.shape), -1).sum(
            axis=1, dtype=np.float64
        )
        return total

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`."""
        return np.repeat(keep_units, math.prod(shape[2:])).reshape(tuple(shape))
