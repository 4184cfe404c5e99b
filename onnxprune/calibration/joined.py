"""Small complete feeds joined into larger ones, where that is shown to change nothing.

A loader that yields one sample after the other makes every pass over the samples a walk through
hundreds of calls into onnxruntime, which costs more than the network does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import io
from onnxprune.calibration.feed_specs import Feed, input_specs
from onnxprune.calibration.stages import session

#: Largest difference of outputs, relative to the largest value, that is put down to rounding.
SAME = 1e-4


def join_feeds(model: ir.Model, feeds: Sequence[Feed], batch: int, least: int) -> list[Feed]:
    """Return the same samples in feeds of up to ``batch``.

    Feeds are joined where the model leaves the first axis of all inputs open, feeds agree in all
    other sizes, and the model gives for two feeds as one what it gives for either: an open axis may
    hold time or tokens instead of samples.

    Args:
        model: the model.
        feeds: complete feeds.
        batch: samples in a feed, at most.
        least: feeds wanted; batches are smaller where there are few samples.

    Returns:
        Feeds in the order of the first sample of each, or ``feeds`` as they are.
    """
    specs = input_specs(model)
    rows = [_rows(feed) for feed in feeds]
    total = sum(rows)
    batch = min(batch, total // max(least, 1))
    if batch < 2 or 0 in rows or min(rows) > batch // 2:
        return list(feeds)
    if not all(s.dims and not isinstance(s.dims[0], int) for s in specs):
        return list(feeds)
    groups: dict[Any, list[Feed]] = {}
    for feed in feeds:
        key = tuple((n, a.dtype, a.shape[1:]) for n, a in sorted(feed.items()))
        groups.setdefault(key, []).append(feed)
    pair = next((g[:2] for g in groups.values() if len(g) > 1), None)
    if pair is None or not _additive(model, pair[0], pair[1]):
        return list(feeds)
    joined = []
    for group in groups.values():
        taken: list[Feed] = []
        for feed in group:
            if taken and sum(map(_rows, taken)) + _rows(feed) > batch:
                joined.append(_join(taken))
                taken = []
            taken.append(feed)
        joined.append(_join(taken))
    return joined


def _rows(feed: Feed) -> int:
    """Samples in a feed, 0 where its arrays do not agree on that."""
    sizes = {a.shape[0] if a.ndim else 0 for a in feed.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _join(feeds: Sequence[Feed]) -> Feed:
    return {n: np.concatenate([f[n] for f in feeds]) for n in feeds[0]}


def _additive(model: ir.Model, one: Feed, two: Feed) -> bool:
    """Whether outputs for two feeds as one are those for either, one behind the other."""
    runner = session(io.to_bytes(model))
    try:
        apart = [runner.run(None, dict(feed)) for feed in (one, two)]
        both = runner.run(None, dict(_join([one, two])))
    except Exception:  # onnxruntime raises its own types; feeds then stay as they are
        return False
    return all(_same(a, b, c) for a, b, c in zip(*apart, both, strict=True))


def _same(one: npt.NDArray[Any], two: npt.NDArray[Any], both: npt.NDArray[Any]) -> bool:
    if not all(isinstance(a, np.ndarray) and a.ndim for a in (one, two, both)):
        return False
    if one.shape[1:] != two.shape[1:] or both.shape != (len(one) + len(two), *one.shape[1:]):
        return False
    want = np.concatenate([one, two])
    if both.dtype.kind != "f":
        return bool((want == both).mean() > 0.99) if both.size else True
    scale = float(np.abs(want).max(initial=0.0))
    return bool(np.abs(want - both).max(initial=0.0) <= SAME * max(scale, 1e-30))
