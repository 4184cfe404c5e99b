"""Masked weights trained block-wise against the dense network, masks fixed.

All blocks together: every block's output and the network's are compared with the dense network's on
the same samples, as where channels are gone (:mod:`.train_blocks`), by the same steps, taken over
what each row keeps (:mod:`.distil`). Layers that stay dense move too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.samples import rows_of
from onnxprune.calibration.stages import Stream
from onnxprune.gradients import NoGradient
from onnxprune.proof.widen import wide_feed, widened_proto
from onnxprune.recovery.apply import Feed, Progress, Reconstruction, Recovered, quiet
from onnxprune.recovery.distil import train
from onnxprune.recovery.distil_graph import Students, compared_points, graph_of
from onnxprune.recovery.lesson_feeds import by_shape, cut_feeds, moment_feeds
from onnxprune.recovery.lessons import Lessons, Teacher
from onnxprune.recovery.slopes import threads_of
from onnxprune.recovery.strides import measured
from onnxprune.recovery.train_blocks import (
    LEAST_EPOCHS,
    MOST_POINTS,
    followed,
    many_classes,
    spaces_of,
)

Array = npt.NDArray[Any]
#: Multiply-accumulates of the dense network over samples and epochs; fewer epochs beyond it.
BUDGET = 9e11
#: Multiply-accumulates that take as long as it takes to call a node of a step.
PER_NODE = 5e4
#: Passes over samples that stay the same, which are soon learnt by heart, and over varied ones.
EPOCHS, VARIED_EPOCHS = 32, 128
#: Samples behind one step, at least.
BATCH = 32


def train_masks(
    work: Reconstruction,
    judge: Judge,
    found: Recovered,
    *,
    passes: float = 1.0,
    progress: Progress = quiet,
) -> tuple[Recovered, Agreement, dict[str, Any]]:
    """Return ``found`` with trained values, their held-out agreement, and an account.

    Args:
        work: the dense network with its samples.
        judge: of the held-out samples.
        found: masks, weights and biases to start from.
        passes: share of the passes that are taken otherwise.
        progress: called with (stage, fraction done).

    Raises:
        NoGradient: the network, or its samples, cannot be trained on; the message says why.
        DataError: onnxruntime does not run the model.
    """
    feeds = by_shape(work.training)
    effort = work.macs * max(sum(rows_of(f) for f in feeds), 1)
    if LEAST_EPOCHS * effort > BUDGET:
        raise NoGradient("the network is too large to be trained here")
    dense, sparse = _models(work, found, feeds[0])
    narrow = cut_feeds(feeds, sparse, work.analyzer.model)
    # Steps are too small for half precision; what is judged is in the network's own.
    dense, sparse = widened_proto(dense), widened_proto(sparse)
    feeds = [{n: wide_feed(a) for n, a in feed.items()} for feed in narrow]
    student = graph_of(sparse, feeds[0])
    sites = {work.bias_name(site): place for place, (site, _) in enumerate(found.biases)}
    read = [n for n, layer in work.layers.items() if followed(work.analyzer, layer.value)]
    names = [
        n
        for n in (*read, *sites)
        if n in student.constants and student.known[n].dtype == np.float32
    ]
    made = {n for node in dense.graph.node for n in node.output}
    points, unfollowed = compared_points(student, names, made, MOST_POINTS)
    ends = [n for n in student.outputs if student.values[n].dtype == np.float32]
    threads = threads_of(feeds, BATCH)
    teacher = Teacher(dense, [*points, *ends], threads=threads)
    spreads = teacher.spreads(feeds)
    lessons = Lessons(feeds, teacher, work.variety(judge), work.seed)
    classes = many_classes(work.stages, judge, student, spreads)
    graph = Students(sparse, feeds, names, spreads, classes=classes, threads=threads)
    calls = sum(graph.nodes(feed) for feed in feeds)
    most = (VARIED_EPOCHS if lessons.variety else EPOCHS) // work.copies
    most = min(most, int(BUDGET / (effort + PER_NODE * calls)))
    epochs = max(LEAST_EPOCHS, int(passes * most))
    seen: dict[float, Agreement] = {}

    def with_values(weights: Mapping[str, Array]) -> Recovered:
        biases = list(found.biases)
        for name, place in sites.items():
            if name in weights:
                biases[place] = (biases[place][0], weights[name])
        held = {
            n: a.astype(work.layers[n].tensor.dtype.numpy(), copy=False)
            for n, a in weights.items()
            if n not in sites
        }
        return replace(found, weights={**found.weights, **held}, biases=biases)

    def disagreement(weights: Mapping[str, Array]) -> float:
        trial = with_values(weights)
        agreement = work.agreement(judge, trial.weights, trial.biases)
        seen[agreement.loss] = agreement
        return agreement.loss

    start = {n: np.array(student.known[n], np.float32) for n in graph.weights}
    thin = Stream(work.stages, moment_feeds(narrow))
    work.dress(thin, found.weights, found.biases)
    spaces = spaces_of(work, thin, found.masks)
    strides = measured(
        graph, lessons, start, spaces, masks=found.masks, batch=BATCH, seed=work.seed
    )
    done = train(
        graph, start, lessons, spaces, disagreement, strides=strides,
        masks=found.masks, epochs=epochs, batch=BATCH, seed=work.seed, progress=progress,
    )  # fmt: skip
    account = {
        "weights": len(graph.weights),
        "compared": [*points, *ends],
        "unfollowed": unfollowed,
        "epochs": epochs,
        "variety": asdict(lessons.variety),
        "history": [list(row) for row in done.history],
    }
    return with_values(done.weights), seen[done.loss], account


def _models(
    work: Reconstruction, found: Recovered, feed: Feed
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The dense network, and the one with the values found."""
    stages = work.stages
    start = Stream(stages, [feed])
    types = {n: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in start.values[0].items()}
    whole = stages.cut(0, len(stages.nodes), types, {}, {})
    work.dress(start, found.weights, found.biases)
    thin = stages.cut(0, len(stages.nodes), types, start.weights, start.edits)
    if whole is None or thin is None:
        raise NoGradient("no output depends on an input")
    dense, sparse = (onnx.load_model_from_string(part[0]) for part in (whole, thin))
    return dense, sparse
