"""Exact selection and run-wise sums: the two array primitives all patterns share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def without_nan(scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ``scores`` with NaN replaced by +inf; the same array when it holds none.

    A NaN weight is kept: pruning must not hide that a model is broken, and a NaN would otherwise
    make every comparison with it false and the number of kept weights wrong.
    """
    if scores.size and np.isnan(scores.min()):  # min propagates NaN: one pass, no temporary
        return np.where(np.isnan(scores), scores.dtype.type(np.inf), scores)
    return scores


def keep_largest(scores: npt.NDArray[Any], keep: int) -> npt.NDArray[np.bool_]:
    """Flag the ``keep`` largest of 1-D ``scores``; ties go to the lower index, NaN counts as +inf.

    Linear time (a partition, no sort); one copy of ``scores`` in its own dtype.

    Raises:
        ValueError: ``keep`` is outside 0..len(scores).
    """
    n = scores.size
    if not 0 <= keep <= n:
        raise ValueError(f"cannot keep {keep} of {n}")
    if keep == n:
        return np.ones(n, dtype=np.bool_)
    if keep == 0:
        return np.zeros(n, dtype=np.bool_)
    scores = without_nan(scores)
    threshold = np.partition(scores, n - keep)[n - keep]
    kept: npt.NDArray[np.bool_] = scores > threshold
    ties = np.flatnonzero(scores == threshold)
    kept[ties[: keep - int(np.count_nonzero(kept))]] = True
    return kept


def sum_runs(values: npt.NDArray[Any], axis: int, length: int) -> npt.NDArray[np.float64]:
    """Sum every ``length`` consecutive entries along ``axis`` in float64.

    The last run is shorter where ``length`` does not divide the axis. The order of the additions
    is fixed, so results do not depend on the machine. Only the (smaller) result is float64.
    """
    moved = np.moveaxis(values, axis, 0)
    total = moved[::length].astype(np.float64)
    for offset in range(1, min(length, len(moved))):
        part = moved[offset::length]
        total[: len(part)] += part
    return np.moveaxis(total, 0, axis)
