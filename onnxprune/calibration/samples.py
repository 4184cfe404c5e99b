"""Calibration samples as feeds of a size that suits statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.calibration.feed_random import random_feeds, working_feeds
from onnxprune.calibration.feeds import Feed, input_specs, open_feeds
from onnxprune.calibration.joined import join_feeds

#: Samples used when nothing else is asked for.
SAMPLES = 1024
#: Data of this name are random inputs.
SYNTHETIC = "synthetic"
#: Random feeds used when nothing else is asked for.
SYNTHETIC_FEEDS = 96
#: Samples a feed where the model leaves the batch open, and feeds wanted, so that some can be held
#: out.
BATCH = 32
FEEDS = 12


def calibration_feeds(source: Any, model: ir.Model, samples: int | None = None) -> list[Feed]:
    """Return feeds for calibration; batches shrink where few samples would make few feeds.

    Args:
        source: see :func:`~onnxprune.calibration.feeds.open_feeds`.
        model: the model; single samples are joined where it allows that.
        samples: at most so many; 1024 when None.

    Raises:
        DataError: nothing usable is there.
    """
    opened = open_feeds(source, model, samples or SAMPLES).batched(BATCH)
    feeds = list(opened)
    if len(feeds) >= FEEDS:
        return join_feeds(model, feeds, BATCH, FEEDS)
    batch = BATCH
    while batch > 1 and len(feeds) < FEEDS:
        batch //= 2
        smaller = list(opened.batched(batch))
        if len(smaller) == len(feeds) and batch > 1:
            continue
        feeds = smaller
    return feeds


def synthetic_feeds(model: ir.Model, samples: int | None = None, seed: int = 0) -> list[Feed]:
    """Return random feeds of one size that the model runs on, for want of samples.

    Statistics of random inputs are not those of real ones: first layers see them rightly scaled at
    best, and classes that never occur get as much weight as those that do.

    Args:
        model: the model.
        samples: how many; :data:`SYNTHETIC_FEEDS` when None.
        seed: the same seed gives the same feeds.

    Raises:
        DataError: no random input was found that the model runs on.
    """
    first = working_feeds(model, seed, 1)[0]
    sizes: dict[str, int] = {}
    for spec in input_specs(model):
        array = first.get(spec.name)
        for axis, size in enumerate(() if array is None else array.shape):
            key = spec.dim_key(axis) if axis < (spec.rank or 0) else None
            if key is not None:
                sizes.setdefault(key, size)
    count = samples or SYNTHETIC_FEEDS
    return [first, *(random_feeds(model, seed + 1 + i, sizes) for i in range(count - 1))]


def rows_of(feed: Mapping[str, Any]) -> int:
    """Return how many samples a feed holds."""
    sizes = {np.asarray(v).shape[0] for v in feed.values() if np.asarray(v).ndim}
    return sizes.pop() if len(sizes) == 1 else 1
