"""Samples in the sizes that training takes them in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune.calibration.samples import rows_of
from onnxprune.errors import DataError
from onnxprune.gradients import NoGradient
from onnxprune.recovery.distil_graph import Graph, graph_of, shape_of

Feed = Mapping[str, npt.NDArray[Any]]
#: Bytes of the student's values in one step, as far as the batch can be cut: small ones stay in
#: the caches.
MEMORY = 96 << 20
#: Samples of one run where the batch can be cut: a step is several then, side by side.
MOST_ROWS = 16
#: Samples behind the second moments of a layer's inputs.
MOMENT_SAMPLES = 192
#: Shapes of samples that are trained on, the most frequent ones, and the share that they must have.
MOST_SHAPES, LEAST_SHARE = 24, 0.5


def moment_feeds(feeds: Sequence[Feed]) -> Sequence[Feed]:
    """The feeds behind second moments."""
    wanted = -(-MOMENT_SAMPLES // max(1, rows_of(feeds[0])))
    return feeds[:: max(1, len(feeds) // wanted)]


def by_shape(feeds: Sequence[Feed]) -> list[Feed]:
    """The feeds of the most frequent shapes, those of one shape behind each other.

    Raises:
        NoGradient: most samples have shapes of their own.
    """
    groups: dict[Any, list[Feed]] = {}
    for feed in feeds:
        groups.setdefault(shape_of(feed), []).append(feed)
    most = sorted(groups.values(), key=len, reverse=True)[:MOST_SHAPES]
    taken = [feed for group in most for feed in group]
    if len(taken) < LEAST_SHARE * len(feeds):
        raise NoGradient(f"samples of {len(groups)} different shapes")
    return taken


def cut_feeds(feeds: Sequence[Feed], proto: onnx.ModelProto, model: ir.Model) -> list[Feed]:
    """Feeds of a size that suits a step, where the model leaves the batch open.

    Samples of one shape are joined, which saves calls of nodes, up to :data:`MOST_ROWS` and to what
    :data:`MEMORY` holds.

    Args:
        feeds: those of one shape behind each other.
        proto: a model that they run through.
        model: the same, whose inputs tell whether the batch is open.

    Raises:
        DataError: onnxruntime does not run it, or a batch without samples.
    """
    shapes = [v.shape for v in model.graph.inputs if v.name in feeds[0]]
    if not all(s is not None and len(s) and not isinstance(s[0], int) for s in shapes):
        return list(feeds)
    if not all(map(rows_of, feeds)):
        raise DataError("a batch without samples")
    largest = max(feeds, key=lambda f: sum(np.asarray(a).nbytes for a in f.values()) / rows_of(f))
    one = graph_of(proto, {n: np.asarray(a)[:1] for n, a in largest.items()})
    size = sum(a.nbytes for a in one.values.values())
    most = min(MOST_ROWS, max(1, int(MEMORY / max(size, 1))))
    if not _by_rows(proto, largest, one):
        most = min(most, min(map(rows_of, feeds)))
    out: list[Feed] = []
    for _, alike in groupby(
        feeds, key=lambda f: [(n, np.asarray(a).shape[1:]) for n, a in f.items()]
    ):
        group = list(alike)
        ends = np.cumsum([0, *map(rows_of, group)])
        # All of one size, so that they are of one shape; a few samples may be left over.
        part = int(ends[-1] // -(-ends[-1] // most))
        for start in range(0, int(ends[-1]) // part * part, part):
            stop = start + part
            pieces = [
                {n: np.asarray(a)[max(0, start - at) : stop - at] for n, a in feed.items()}
                for feed, at in zip(group, ends, strict=False)
                if at < stop and at + rows_of(feed) > start
            ]
            joined = {n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]}
            out.append(joined if len(pieces) > 1 else pieces[0])
    return out


def _by_rows(proto: onnx.ModelProto, feed: Feed, one: Graph) -> bool:
    """Whether a sample given twice gives the outputs ``one`` of its first row twice.

    An axis that is declared as open may have been written down as one sample inside.
    """
    try:
        twice = graph_of(proto, {n: np.repeat(np.asarray(a)[:1], 2, 0) for n, a in feed.items()})
    except Exception:  # onnxruntime raises its own types, one per status code
        return False
    return all(
        twice.values[n].shape == (2, *one.values[n].shape[1:])
        and np.allclose(twice.values[n], one.values[n], rtol=1e-3, atol=1e-5)
        for n in one.outputs
        if n in one.values
    )
