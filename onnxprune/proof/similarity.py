"""How alike two outputs are, summed up over any number of feeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.proof.equivalence import relative_error

Array = npt.NDArray[Any]


@dataclass
class Similarity:
    """One output of two models, feed by feed.

    Attributes:
        max_abs_error: largest absolute difference.
        max_rel_error: largest :func:`.equivalence.relative_error` of a feed.
        classes: whether the output may hold scores of classes, for :attr:`agreement`.
        feeds: how many feeds were added.
        differing: (shape of the reference, shape of the other) where they differ, first one only.
    """

    classes: bool = True
    max_abs_error: float = 0.0
    max_rel_error: float = 0.0
    feeds: int = 0
    differing: tuple[list[int], list[int]] | None = None
    _sums: Array = field(default_factory=lambda: np.zeros(4))
    _votes: Array = field(default_factory=lambda: np.zeros(2, np.int64))
    _divergence: Array = field(default_factory=lambda: np.zeros(2))

    def add(self, reference: Array, other: Array) -> None:
        """Compare the output of one feed."""
        self.feeds += 1
        self.max_rel_error = max(self.max_rel_error, relative_error(reference, other))
        if reference.shape != other.shape:
            self.differing = self.differing or (list(reference.shape), list(other.shape))
            self.max_abs_error = math.inf
            return
        if not _is_number(reference) or not _is_number(other) or not reference.size:
            return
        a, b = reference.astype(np.float64), other.astype(np.float64)
        with np.errstate(invalid="ignore"):
            error = np.where(a == b, 0.0, np.abs(a - b))  # inf - inf is no difference
        error[np.isnan(a) & np.isnan(b)] = 0.0
        worst = float(np.nan_to_num(error, nan=math.inf).max())
        self.max_abs_error = max(self.max_abs_error, worst)
        finite = np.isfinite(a) & np.isfinite(b)
        a, b = a[finite], b[finite]
        self._sums += [a @ b, a @ a, b @ b, (a - b) @ (a - b)]
        axis = class_axis(reference) if self.classes else None
        if axis is not None:
            same = reference.argmax(axis) == other.argmax(axis)
            self._votes += [np.count_nonzero(same), same.size]
            self._divergence += _divergence(reference, other, axis)

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between the two outputs, all feeds together; None if undefined."""
        product, a, b, error = self._sums
        if not (a and b):
            return 1.0 if self.feeds and not (a or b) and self.max_abs_error == 0 else None
        return 1.0 if not error else min(1.0, float(product / math.sqrt(a) / math.sqrt(b)))

    @property
    def snr(self) -> float | None:
        """Signal-to-noise ratio in dB, the difference being the noise; inf without any."""
        _, signal, _, noise = self._sums
        if not noise:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else None

    @property
    def agreement(self) -> float | None:
        """Share of places where the same class is largest; None for outputs without classes."""
        same, total = self._votes
        return float(same / total) if total else None

    @property
    def kl(self) -> float | None:
        """Mean Kullback-Leibler divergence of the other's classes in nats; None without classes."""
        total, count = self._divergence
        return float(total / count) if count else None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {
            "max_abs_error": self.max_abs_error,
            "max_rel_error": self.max_rel_error,
            "cosine": self.cosine,
            "snr_db": self.snr,
            "top1_agreement": self.agreement,
            "kl": self.kl,
            "shapes": None if self.differing is None else list(self.differing),
        }


def _divergence(reference: Array, other: Array, axis: int) -> tuple[float, int]:
    """Summed KL(reference || other) and the number of finite places; see :attr:`Similarity.kl`."""
    a, b = (np.moveaxis(x.astype(np.float64), axis, -1) for x in (reference, other))
    sums = a.sum(-1)
    if a.min() >= 0 and np.abs(sums - 1).max() < 1e-3:  # distributions already
        low, high = np.log(np.maximum(a, 1e-12)), np.log(np.maximum(b, 1e-12))
    else:
        low, high = _log_softmax(a), _log_softmax(b)
    found = (np.exp(low) * (low - high)).sum(-1)
    finite = np.isfinite(found)
    return float(np.maximum(found[finite], 0.0).sum()), int(np.count_nonzero(finite))


def _log_softmax(x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        moved = x - x.max(-1, keepdims=True)
        result: Array = moved - np.log(np.exp(moved).sum(-1, keepdims=True))
    return result


def _is_number(array: Array) -> bool:
    return array.dtype.kind in "fiubV" or str(array.dtype) == "bfloat16"


def class_axis(array: Array) -> int | None:
    """Return the axis that runs over classes, None for an output that has none.

    [samples, classes], [samples, classes, height, width ...], [samples, places, classes]: the
    second axis, but the last of three. Integers are no scores.
    """
    if array.ndim < 2 or array.dtype.kind not in "fV":
        return None
    axis = 2 if array.ndim == 3 else 1
    return axis if array.shape[axis] > 1 else None
