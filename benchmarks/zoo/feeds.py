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
