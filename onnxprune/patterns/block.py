"""Blocks: R consecutive outputs by C consecutive inputs share one fate."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxprune.errors import UsageError
from onnxprune.patterns.base import PATTERNS, FloatArray, IntArray, Mask, Pattern
from onnxprune.patterns.select import sum_runs

_FORM = re.compile(r"block(?::(.*))?")
_SIZE = re.compile(r"(\d+)x(\d+)")


@PATTERNS.member("block")
@dataclass(frozen=True)
class Block(Pattern):
    """``rows`` consecutive outputs by ``cols`` consecutive inputs at one kernel position.

    ``block:4x1`` means that 4 consecutive outputs share one mask. Blocks do not cross groups;
    where the block does not divide the weight, the blocks at the edge are smaller.
    """

    rows: int
    cols: int
    syntax: ClassVar[str] = "block:RxC"
    summary: ClassVar[str] = "R consecutive outputs x C consecutive inputs, e.g. block:4x1"
    examples: ClassVar[tuple[str, ...]] = ("block:4x1", "block:1x4", "block:2x3", "block:16x16")

    def __post_init__(self) -> None:
        """Refuse empty blocks."""
        if self.rows < 1 or self.cols < 1:
            raise UsageError(
                f"pattern block:{self.rows}x{self.cols} cannot be meant: both sides of a block are "
                "at least 1, e.g. block:4x1"
            )

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return f"block:{self.rows}x{self.cols}"

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        found = _FORM.fullmatch(text)
        if found is None:
            return None
        size = _SIZE.fullmatch(found[1] or "")
        if size is None:
            raise UsageError(
                f"pattern {text!r} lacks its size: write block:RxC, R consecutive outputs by C "
                "consecutive inputs, e.g. block:4x1"
            )
        return cls(int(size[1]), int(size[2]))

    def runs(self, shape: Sequence[int]) -> tuple[int, int]:
        """See :meth:`Pattern.runs`."""
        del shape
        return self.rows, self.cols

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: [G, ceil(O/rows), ceil(I/cols), *K]."""
        groups, outputs, inputs, *kernel = shape
        return (groups, -(-outputs // self.rows), -(-inputs // self.cols), *kernel)

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        if self.rows == self.cols == 1:
            return saliency.reshape(-1)
        return sum_runs(sum_runs(saliency, 1, self.rows), 2, self.cols).reshape(-1)

    def unit_sizes(self, shape: Sequence[int]) -> IntArray:
        """See :meth:`Pattern.unit_sizes`."""
        groups, outputs, inputs, *kernel = shape
        if outputs % self.rows == 0 and inputs % self.cols == 0:
            return super().unit_sizes(shape)
        tall = np.diff(np.append(np.arange(0, outputs, self.rows), outputs))
        wide = np.diff(np.append(np.arange(0, inputs, self.cols), inputs))
        plane = np.repeat(np.outer(tall, wide).astype(np.int64), math.prod(kernel))
        return np.tile(plane, groups)

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`."""
        mask = keep_units.reshape(self.grid(shape))
        if self.rows > 1:
            mask = np.repeat(mask, self.rows, axis=1)[:, : shape[1]]
        if self.cols > 1:
            mask = np.repeat(mask, self.cols, axis=2)[:, :, : shape[2]]
        return np.ascontiguousarray(mask)
