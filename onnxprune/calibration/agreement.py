"""How far a pruned network's outputs are from the dense ones, as one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Losses below which outputs are as good as the dense ones: of classes, as a share of what the
#: dense network tells apart, and of other values.
CLOSE_CLASSES, CLOSE_VALUES = 5e-4, 1e-5
#: Stands for a logit that is not finite.
HOLE = -1e4
#: Square of the rounding of numbers in float32, generously: outputs that do not change with the
#: samples are compared by it.
ROUNDING = 1e-10


@dataclass(frozen=True)
class Agreement:
    """Distance of outputs from the dense network's.

    Attributes:
        loss: Kullback-Leibler divergence a row in nats where the output holds classes, else mean
            squared error over the dense output's variance; summed over outputs.
        top1: share of rows with the same largest class, or None where no output holds classes.
        error: mean squared error over the dense output's variance of all outputs alike, summed.
            Divergence does not see what all classes of a row have in common, and two axes may hold
            coordinates as well as classes: no step may make this worse than zeros alone do.
    """

    loss: float
    top1: float | None
    error: float = 0.0

    def no_worse(self, plain: Agreement) -> bool:
        """Whether outputs are no further off than those of ``plain``, whatever they hold."""
        return self.error <= max(plain.error, CLOSE_VALUES)

    def as_dict(self) -> dict[str, float | None]:
        """Return plain data."""
        return {"loss": self.loss, "top1": self.top1}


class Judge:
    """The dense outputs, prepared once.

    An output holds classes when it has two axes (samples, more than one class), or three behind
    integer inputs (a language model): scores are taken as logits unless they are distributions
    already. Any other float output is compared by squared error.
    """

    def __init__(
        self,
        dense: Sequence[Sequence[Array]],
        *,
        tokens: bool = False,
        spread: Sequence[Sequence[Array]] | None = None,
    ) -> None:
        """Take the dense outputs.

        Args:
            dense: a list a feed.
            tokens: whether inputs are integers.
            spread: outputs whose variance errors are measured by, where ``dense`` are too few.
        """
        self.dense = dense
        wide = dense if spread is None else spread
        first = dense[0] if dense else []
        self.kinds = [kind_of(o, tokens) for o in first]
        # What is not finite in the dense network (a masked class, a hole) is not compared.
        self.holes = [
            kind is not None and not all(np.isfinite(f[i]).all() for f in dense)
            for i, kind in enumerate(self.kinds)
        ]
        self.spread = [
            1.0 if kind is None else spread_of(np.concatenate([f[i].ravel() for f in wide]))
            for i, kind in enumerate(self.kinds)
        ]

    def close(self, found: Agreement) -> bool:
        """Whether nothing that samples could show is left to gain."""
        return found.loss <= self._close

    @cached_property
    def _close(self) -> float:
        limits = [
            CLOSE_VALUES if kind == "value" else CLOSE_CLASSES * self._information(index)
            for index, kind in enumerate(self.kinds)
            if kind is not None
        ]
        return min(limits, default=0.0)

    @property
    def information(self) -> float:
        """How far apart the dense rows of classes are, in nats a row, summed over outputs."""
        return sum(self._information(i) for i, kind in enumerate(self.kinds) if kind == "classes")

    def _information(self, index: int) -> float:
        """How far the dense rows of classes are from their mean, in nats a row."""
        rows = np.concatenate([f[index].reshape(-1, f[index].shape[-1]) for f in self.dense])
        rows = rows.astype(np.float64)
        if self.holes[index]:
            rows = np.where(np.isfinite(rows), rows, HOLE)
        logs = _logs(rows)
        mean = np.log(np.maximum(np.exp(logs).mean(axis=0), 1e-12))
        return float((np.exp(logs) * (logs - mean)).sum(axis=-1).mean())

    def judge(self, other: Sequence[Sequence[Array]]) -> Agreement:
        """Compare another network's outputs on the same feeds."""
        loss, error, votes, rows = 0.0, 0.0, 0, 0
        for index, kind in enumerate(self.kinds):
            if kind is None:
                continue
            divergence, squares, numbers, count = 0.0, 0.0, 0, 0
            for want, have in zip(self.dense, other, strict=True):
                a, b = want[index].astype(np.float64), have[index].astype(np.float64)
                there = None
                if self.holes[index] and a.shape == b.shape:
                    there = np.isfinite(a)
                    blank = HOLE if kind == "classes" else 0.0
                    a, b = np.where(there, a, blank), np.where(there, b, blank)
                if a.shape != b.shape or not np.isfinite(b).all():
                    return Agreement(float("inf"), None, float("inf"))
                squares += float(((a - b) ** 2).sum())
                numbers += a.size if there is None else int(np.count_nonzero(there))
                if kind == "classes":
                    divergence += float(_divergence(a, b).sum())
                    same = a.argmax(-1) == b.argmax(-1)
                    votes, rows = votes + int(same.sum()), rows + same.size
                    count += same.size
            if not numbers:
                continue
            off = squares / numbers / self.spread[index]
            error += off
            loss += divergence / count if kind == "classes" else off
        return Agreement(loss, votes / rows if rows else None, error)


def spread_of(values: Array) -> float:
    """Variance of the finite ones of ``values``, at least what their rounding makes of them."""
    wide = values[np.isfinite(values)].astype(np.float64)
    if not wide.size:
        return 1e-12
    return float(max(np.var(wide), ROUNDING * np.mean(wide * wide), 1e-12))


def kind_of(output: Array, tokens: bool) -> str | None:
    """Return what an output holds: ``classes``, ``value``, or None where it is not compared."""
    if output.dtype.kind != "f" or not output.size:
        return None
    rank = 3 if tokens else 2
    return "classes" if output.ndim in (2, rank) and output.shape[-1] > 1 else "value"


def distributions(rows: Array) -> bool:
    """Return whether the last axis holds probabilities rather than logits."""
    return bool(rows.min() >= 0 and np.abs(rows.sum(-1) - 1).max() < 1e-3)


def _divergence(a: Array, b: Array) -> Array:
    """KL of rows of logits, or of distributions where both hold them."""
    if distributions(a):
        low, high = _logs(a), np.log(np.maximum(b, 1e-12))
    else:
        low, high = _logs(a), _log_softmax(b)
    found: Array = (np.exp(low) * (low - high)).sum(-1)
    return found


def _logs(rows: Array) -> Array:
    """Logarithms of the distributions that rows hold, or are the logits of."""
    if distributions(rows):
        logs: Array = np.log(np.maximum(rows, 1e-12))
        return logs
    return _log_softmax(rows)


def _log_softmax(x: Array) -> Array:
    moved = x - x.max(-1, keepdims=True)
    result: Array = moved - np.log(np.exp(moved).sum(-1, keepdims=True))
    return result
