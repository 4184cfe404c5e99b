"""Random inputs for a zoo model, from its manifest entry; numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Feeds = dict[str, npt.NDArray[Any]]


def make_feeds(entry: Mapping[str, Any], sizes: Mapping[str, int], seed: int = 0) -> Feeds:
    """Draw one array for every input of `entry`.

    entry: a manifest entry; its "inputs" hold name, dtype (numpy name), dims (int or symbolic name)
    and fill ("normal", "uniform", "ones", or n: integers in [0, n)). sizes: value of every symbol.
    Raises KeyError when a symbol has no size, ValueError for an unknown fill.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for spec in entry["inputs"]:
        shape = [dim if isinstance(dim, int) else sizes[dim] for dim in spec["dims"]]
        fill, dtype = spec["fill"], np.dtype(spec["dtype"])
        if isinstance(fill, int):
            feeds[spec["name"]] = rng.integers(0, fill, shape).astype(dtype)
        elif fill == "ones":
            feeds[spec["name"]] = np.ones(shape, dtype)
        elif fill == "normal":
            feeds[spec["name"]] = rng.standard_normal(shape).astype(dtype)
        elif fill == "uniform":
            feeds[spec["name"]] = rng.random(shape).astype(dtype)
        else:
            raise ValueError(f"input {spec['name']!r}: fill {fill!r} is not known")
    return feeds


def deviation(got: npt.NDArray[Any], want: npt.NDArray[Any]) -> float:
    """Largest absolute difference in units of the standard deviation of `want`.

    A single value has no deviation: its own size is the unit then. Returns inf where shapes differ
    or one side is not finite where the other is.
    """
    if got.shape != want.shape:
        return float("inf")
    left, right = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(left) == np.isfinite(right)).all():
        return float("inf")
    if left.size == 0:
        return 0.0
    spread = float(right.std()) if right.size > 1 else float(np.abs(right).max())
    return float(np.nanmax(np.abs(left - right))) / max(spread, 1e-12)
