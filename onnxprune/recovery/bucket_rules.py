"""What a mask keeps of a bucket: the score that a search of channel orders maximises.

A pattern ties consecutive channels together in buckets of m. Which channels share a bucket is a
choice; how good one is depends on the pattern:

* :class:`KeepN` (N:M): in every row of scores the n largest of a bucket stay;
* :class:`Together` (blocks, vectors): in every row the channels of a bucket stay or go as one, and
  of a layer's bucket rows so many stay as its sparsity says.

Both judge a bucket by itself, so the same moves improve either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.recovery.problem import F64, Ints

F32 = npt.NDArray[np.float32]

#: Bucket by bucket, so many of the channels that are left are looked at in the greedy start.
WINDOW = 256
#: Entries that the search of a :class:`Together` may look at: about a second on one core.
BUDGET = 4e8


class BucketRule(ABC):
    """How the rows of a score matrix [rows, channels] are masked in buckets of ``m`` channels."""

    m: int

    @property
    @abstractmethod
    def budget(self) -> float:
        """Scored entries after which a search stops where it is."""

    @abstractmethod
    def kept(self, scores: F64, order: Ints) -> float:
        """Score that the best mask keeps where channel ``order[i]`` stands at place i."""

    @abstractmethod
    def upper(self, scores: F64) -> float:
        """Score that the same number of weights keeps when they are chosen freely."""

    @abstractmethod
    def value(self, lanes: Sequence[F32], limits: F32 | None) -> F64:
        """Value of buckets [B]; ``lanes[i]`` [B, rows] are the scores of their channels i."""

    def limits(self, scores: F64, order: Ints) -> F64 | None:
        """By row, what a bucket has to exceed to be kept, in that order; None where unneeded."""
        del scores, order
        return None

    def rows(self, shape: tuple[int, int], rng: np.random.Generator) -> Ints | None:
        """Rows [.] that suffice to rank moves; None for all."""
        del shape, rng
        return None

    @abstractmethod
    def start(self, columns: F32, limits: F32 | None) -> Ints:
        """Buckets [B, m] to begin with, from ``columns`` [channels, rows]."""


@dataclass(frozen=True)
class KeepN(BucketRule):
    """The ``n`` largest scores of every ``m`` consecutive channels stay, in each row."""

    n: int
    m: int

    @property
    def budget(self) -> float:
        """See :attr:`BucketRule.budget`: two or three seconds on one core.

        Four times as much takes seven times as long for less than a hundredth of the gain.
        """
        return 1e9

    def kept(self, scores: F64, order: Ints) -> float:
        """See :meth:`BucketRule.kept`."""
        groups = scores[:, order].reshape(-1, self.m)
        cut = self.m - self.n
        return float(np.partition(groups, cut, axis=1)[:, cut:].sum())

    def upper(self, scores: F64) -> float:
        """See :meth:`BucketRule.upper`."""
        return _largest(scores, scores.size * self.n // self.m)

    def value(self, lanes: Sequence[F32], limits: F32 | None) -> F64:
        """See :meth:`BucketRule.value`: what stays."""
        if (self.n, self.m) == (2, 4):
            # The top two of four are one of each pair, or a whole pair.
            first, second = lanes[0] + lanes[1], lanes[2] + lanes[3]
            mixed = np.maximum(lanes[0], lanes[1]) + np.maximum(lanes[2], lanes[3])
            top: F64 = np.maximum(np.maximum(first, second), mixed).sum(axis=1, dtype=np.float64)
            return top
        stacked = np.stack(lanes)
        stacked.partition(self.m - self.n, axis=0)
        summed: F64 = stacked[self.m - self.n :].sum(axis=(0, 2), dtype=np.float64)
        return summed

    def start(self, columns: F32, limits: F32 | None) -> Ints:
        """Deal the channels by falling total score to the buckets, back and forth (RIA)."""
        ranked = np.argsort(-columns.sum(axis=1), kind="stable").reshape(self.m, -1)
        ranked[1::2] = ranked[1::2, ::-1].copy()
        return np.ascontiguousarray(ranked.T)


@dataclass(frozen=True)
class Together(BucketRule):
    """The ``m`` channels of a bucket stay or go together, in each row.

    The rows belong to layers, one after the other: ``layers[l]`` is the number of rows of layer l
    and how many of its (row, bucket) pairs stay, those of largest summed score. With t the smallest
    sum that stays, these are ``sum max(0, S - t) + t * count``: a sum over buckets, which a search
    can improve bucket by bucket while t stands still.
    """

    m: int
    layers: tuple[tuple[int, int], ...]

    @property
    def budget(self) -> float:
        """See :attr:`BucketRule.budget`."""
        return BUDGET

    def kept(self, scores: F64, order: Ints) -> float:
        """See :meth:`BucketRule.kept`."""
        return sum(_largest(sums, keep) for sums, keep in self._sums(scores, order))

    def upper(self, scores: F64) -> float:
        """See :meth:`BucketRule.upper`."""
        parts = np.split(scores, np.cumsum([rows for rows, _ in self.layers])[:-1])
        pairs = zip(parts, self.layers, strict=True)
        return sum(_largest(part, keep * self.m) for part, (_, keep) in pairs)

    def limits(self, scores: F64, order: Ints) -> F64:
        """See :meth:`BucketRule.limits`: the smallest sum that stays, by layer."""
        least = []
        for sums, keep in self._sums(scores, order):
            at = sums.size - min(max(keep, 1), sums.size)
            least.append(np.partition(sums.ravel(), at)[at])
        return np.repeat(np.array(least), [rows for rows, _ in self.layers])

    def _sums(self, scores: F64, order: Ints) -> list[tuple[F64, int]]:
        """By layer: sums [rows, buckets], and how many stay."""
        sums = scores[:, order].reshape(len(scores), -1, self.m).sum(axis=2)
        parts = np.split(sums, np.cumsum([rows for rows, _ in self.layers])[:-1])
        return [(part, keep) for part, (_, keep) in zip(parts, self.layers, strict=True)]

    def value(self, lanes: Sequence[F32], limits: F32 | None) -> F64:
        """See :meth:`BucketRule.value`: by how much the sums that stay exceed their limits."""
        assert limits is not None
        total = lanes[0] - limits
        for lane in lanes[1:]:
            total += lane
        np.maximum(total, 0, out=total)
        value: F64 = total.sum(axis=1, dtype=np.float64)
        return value

    def rows(self, shape: tuple[int, int], rng: np.random.Generator) -> Ints | None:
        """See :meth:`BucketRule.rows`: so many that the greedy start takes part of the budget."""
        count, channels = shape
        enough = max(256, int(BUDGET / (4 * WINDOW * channels)))
        return None if enough >= count else np.sort(rng.permutation(count)[:enough])

    def start(self, columns: F32, limits: F32 | None) -> Ints:
        """Fill one bucket after the other with the channels that add most to it.

        A bucket begins with the strongest channel that is left. Of many channels, those are looked
        at that come next in the order of the matrix' leading direction.
        """
        assert limits is not None
        strength = columns.sum(axis=1)
        left = np.argsort(_leading(columns), kind="stable")
        buckets = np.empty((len(columns) // self.m, self.m), np.int64)
        for bucket in buckets:
            window = left[:WINDOW]
            taken = [int(np.argmax(strength[window]))]
            total = columns[window[taken[0]]].copy()
            for size in range(2, self.m + 1):
                gain = columns[window] + (total - limits * np.float32(size / self.m))
                worth = np.maximum(gain, 0, out=gain).sum(axis=1)
                worth[taken] = -1
                taken.append(int(np.argmax(worth)))
                total += columns[window[taken[-1]]]
            bucket[:] = window[taken]
            left = np.delete(left, taken)
        return buckets


def _leading(columns: F32) -> npt.NDArray[Any]:
    """Place of every channel along the direction in which channels differ most [channels]."""
    centred = columns - columns.mean(axis=0)
    direction = centred.sum(axis=1) + np.linspace(-1, 1, len(columns), dtype=np.float32)
    for _ in range(8):
        direction = centred @ (centred.T @ direction)
        direction = direction / max(float(np.abs(direction).max()), 1e-30)
    place: npt.NDArray[Any] = direction
    return place


def _largest(scores: F64, count: int) -> float:
    """Sum of the ``count`` largest of an array."""
    flat = scores.ravel()
    if count <= 0:
        return 0.0
    return float(np.partition(flat, flat.size - count)[flat.size - count :].sum())
