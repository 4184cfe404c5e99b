"""Sums over columns: centred Gram matrices, cross Grams and means, in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Moments of a layer's columns X [G, d, N] and targets T [G, R, N].

    Attributes:
        columns: N, or the sum of their weights.
        gram: centred ``X X^T`` [G, d, d].
        mean: of X [G, d].
        cross: centred ``T X^T`` [G, R, d]; None where the target is the layer's own output.
        target: mean of T [G, R]; None likewise.
    """

    columns: float
    gram: F64
    mean: F64
    cross: F64 | None = None
    target: F64 | None = None

    def raw(self) -> Statistics:
        """Return the same moments with the means left in, for layers without a bias."""
        gram = self.gram + self.columns * np.einsum("gi,gj->gij", self.mean, self.mean)
        cross = self.cross
        if cross is not None and self.target is not None:
            cross = cross + self.columns * np.einsum("gi,gj->gij", self.target, self.mean)
        return Statistics(self.columns, gram, self.mean, cross, self.target)

    def around(self, other: Statistics) -> Statistics:
        """Return the same moments around the means of other columns.

        A bias that was fitted to those errs by the difference, which counts where columns are few.
        """
        moved = self.mean - other.mean
        gram = self.gram + self.columns * np.einsum("gi,gj->gij", moved, moved)
        cross = self.cross
        if cross is not None and self.target is not None and other.target is not None:
            aim = self.target - other.target
            cross = cross + self.columns * np.einsum("gi,gj->gij", aim, moved)
        return Statistics(self.columns, gram, other.mean, cross, other.target)


class Sums:
    """Accumulates :class:`Statistics`.

    Products are formed in float32, around the mean of the first feed so that nothing is lost when
    means are large, and summed in float64: of feeds of few columns several at a time, since adding
    up [d, d] would take longer than they do.
    """

    def __init__(self) -> None:
        self.columns = 0.0
        self._shift: F32 | None = None
        self._gram: F64 | None = None
        self._sum: F64 | None = None
        self._cross: F64 | None = None
        self._target: F64 | None = None
        self._offset: F32 | None = None
        self._waiting: list[F32] = []
        self._aims: list[F32] = []

    def add(self, columns: F32, target: F32 | None = None, weights: F32 | None = None) -> None:
        """Add X [G, d, n] and, except in the symmetric mode, T [G, R, n], each by a weight [n]."""
        if not columns.shape[2]:
            return
        if self._shift is None:
            self._shift = columns.mean(axis=2, keepdims=True)
        moved = columns - self._shift
        # Both sides of every product take the root of a weight, sums the whole of it.
        root = None if weights is None else np.sqrt(weights)
        moved = moved if root is None else moved * root
        self._waiting.append(moved)
        total = (moved if root is None else moved * root).sum(axis=2, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        if target is not None:
            if self._offset is None:
                self._offset = target.mean(axis=2, keepdims=True)
            aim = target - self._offset
            aim = aim if root is None else aim * root
            self._aims.append(aim)
            goal = (aim if root is None else aim * root).sum(axis=2, dtype=np.float64)
            self._target = goal if self._target is None else self._target + goal
        self.columns += columns.shape[2] if weights is None else float(weights.sum())
        if 2 * sum(part.shape[2] for part in self._waiting) >= columns.shape[1]:
            self._multiply()

    def _multiply(self) -> None:
        """Add the products of what waits for it."""
        if not self._waiting:
            return
        moved = _joined(self._waiting)
        flipped = moved.transpose(0, 2, 1)
        if len(moved) == 1:  # numpy takes the symmetric product of half the cost
            gram = (moved[0] @ moved[0].T)[None].astype(np.float64)
        else:
            flipped = np.ascontiguousarray(flipped)
            gram = np.matmul(moved, flipped).astype(np.float64)
        self._gram = gram if self._gram is None else np.add(self._gram, gram, out=self._gram)
        if self._aims:
            aim = _joined(self._aims)
            cross = (aim[0] @ flipped[0])[None] if len(aim) == 1 else np.matmul(aim, flipped)
            cross = cross.astype(np.float64)
            self._cross = cross if self._cross is None else self._cross + cross
        self._waiting, self._aims = [], []

    def result(self) -> Statistics:
        """Return the moments.

        Raises:
            ValueError: nothing was added.
        """
        self._multiply()
        if self._gram is None or self._sum is None or self._shift is None or not self.columns:
            raise ValueError("no columns were added")
        count = self.columns
        mean = self._sum / count
        gram = self._gram - count * np.einsum("gi,gj->gij", mean, mean)
        gram = 0.5 * (gram + gram.transpose(0, 2, 1))
        centre = mean + self._shift[:, :, 0]
        if self._cross is None or self._target is None or self._offset is None:
            return Statistics(count, gram, centre)
        goal = self._target / count
        cross = self._cross - count * np.einsum("gi,gj->gij", goal, mean)
        return Statistics(count, gram, centre, cross, goal + self._offset[:, :, 0])


def _joined(parts: list[F32]) -> F32:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
