"""N:M sparsity: N of every M consecutive inputs are kept (NVIDIA's tensor cores run 2:4)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError
from onnxprune.patterns.base import PATTERNS, FloatArray, Mask, Pattern
from onnxprune.patterns.select import without_nan

_FORM = re.compile(r"(\d+):(\d+)")
_TOURNAMENT_MAX = 8
"""Up to this M all pairs are compared; above it a partition per group is cheaper."""
_CHUNK = 1 << 18
"""Weights handled at a time, so that the temporaries stay in cache."""


@PATTERNS.member("N:M")
@dataclass(frozen=True)
class NM(Pattern):
    """Exactly ``n`` of every ``m`` consecutive inputs are kept, per output and kernel position.

    The unit is one weight, but the choice is made inside each group of ``m``; the density is
    ``n / m`` everywhere. Groups run along the axis hardware contracts over: the input channels of
    a convolution at a fixed kernel position, K of a matrix product.
    """

    n: int
    m: int
    syntax: ClassVar[str] = "N:M"
    summary: ClassVar[str] = "N of every M consecutive inputs kept, e.g. 2:4"
    examples: ClassVar[tuple[str, ...]] = ("2:4", "1:4", "4:8", "1:2", "3:5", "4:16")

    def __post_init__(self) -> None:
        """Refuse counts that keep nothing or everything."""
        if not 0 < self.n < self.m:
            hint = f" Did you mean {self.m}:{self.n}?" if 0 < self.m < self.n else ""
            raise UsageError(
                f"pattern {self.n}:{self.m} cannot be meant: N:M keeps N of every M consecutive "
                f"inputs, so 0 < N < M.{hint}"
            )

    @property
    def text(self) -> str:
        """See :attr:`Pattern.text`."""
        return f"{self.n}:{self.m}"

    @property
    def fixed_density(self) -> float | None:
        """See :attr:`Pattern.fixed_density`: n / m."""
        return self.n / self.m

    @classmethod
    def parse(cls, text: str) -> Pattern | None:
        """See :meth:`Pattern.parse`."""
        found = _FORM.fullmatch(text)
        return cls(int(found[1]), int(found[2])) if found else None

    def misfit(self, shape: Sequence[int]) -> str | None:
        """See :meth:`Pattern.misfit`: inputs per group must be a multiple of m."""
        if shape[2] % self.m == 0:
            return None
        per_group = " per group" if shape[0] > 1 else ""
        return f"{shape[2]} input channels{per_group} are not a multiple of {self.m}"

    def runs(self, shape: Sequence[int]) -> tuple[int, int]:
        """See :meth:`Pattern.runs`."""
        del shape
        return 1, self.m

    def grid(self, shape: Sequence[int]) -> tuple[int, ...]:
        """See :meth:`Pattern.grid`: the weight's own shape."""
        return tuple(shape)

    def unit_scores(self, saliency: FloatArray) -> FloatArray:
        """See :meth:`Pattern.unit_scores`."""
        return saliency.reshape(-1)

    def mask_from_units(self, keep_units: Mask, shape: Sequence[int]) -> Mask:
        """See :meth:`Pattern.mask_from_units`.

        Raises:
            ValueError: some group of m does not keep exactly n.
        """
        mask = keep_units.reshape(tuple(shape))
        if (self._grouped(mask).sum(axis=2) != self.n).any():
            raise ValueError(f"a group of {self.m} inputs does not keep {self.n}")
        return mask

    def mask(self, saliency: FloatArray, keep: int | None = None) -> Mask:
        """Keep the ``n`` largest of every ``m``; ties go to the lower input, NaN counts as +inf.

        Args:
            saliency: [G, O, I, *K].
            keep: None, or the count the pattern implies.

        Raises:
            UsageError: the weight does not fit (see :meth:`misfit`), or ``keep`` is another count.
        """
        reason = self.misfit(saliency.shape)
        implied = saliency.size * self.n // self.m
        if reason is None and keep is not None and keep != implied:
            reason = f"it keeps {implied} of {saliency.size} weights, not {keep}"
        if reason is not None:
            raise UsageError(f"pattern {self.text} does not fit this weight: {reason}")
        scores = self._grouped(without_nan(saliency))
        mask = np.empty(scores.shape, dtype=np.bool_)
        rows = max(1, _CHUNK * len(scores) // max(1, scores.size))
        pick = self._tournament if self.m <= _TOURNAMENT_MAX else self._partition
        for start in range(0, len(scores), rows):
            pick(scores[start : start + rows], mask[start : start + rows])
        return mask.reshape(saliency.shape)

    def _grouped(self, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """View [G, O, I, *K] as [G*O, I/m, m, K]."""
        groups, outputs, inputs, *kernel = weight.shape
        return weight.reshape(groups * outputs, inputs // self.m, self.m, math.prod(kernel))

    def _tournament(self, scores: npt.NDArray[Any], mask: Mask) -> None:
        """Fill ``mask``: every pair plays once and the n with the most wins stay.

        A group's scores are totally ordered (ties by index), so the wins are m-1, m-2, ..., 0.
        """
        lanes = [np.ascontiguousarray(scores[:, :, i]) for i in range(self.m)]
        wins = np.zeros((self.m, *lanes[0].shape), dtype=np.int8)
        for i, j in combinations(range(self.m), 2):
            first = (lanes[i] >= lanes[j]).view(np.int8)
            wins[i] += first
            wins[j] -= first
        for i in range(self.m):
            # Lane i was second in i pairs and won 1 - first of each: its true wins are i more.
            np.greater_equal(wins[i], self.m - self.n - i, out=mask[:, :, i])

    def _partition(self, scores: npt.NDArray[Any], mask: Mask) -> None:
        """Fill ``mask`` from the n-th largest of each group and as many of its ties as fit."""
        rows = np.ascontiguousarray(np.moveaxis(scores, 2, -1))
        threshold = np.partition(rows, self.m - self.n, axis=-1)[..., self.m - self.n, None]
        kept = rows > threshold
        ties = rows == threshold
        room = self.n - kept.sum(axis=-1, keepdims=True)
        kept |= ties & (np.cumsum(ties, axis=-1) <= room)
        mask[:] = np.moveaxis(kept, -1, 2)
