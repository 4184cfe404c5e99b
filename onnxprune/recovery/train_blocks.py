"""The shrunk network trained block-wise against the dense one, and its weights put back.

Training runs on the network as it will be, with its channels gone, which costs least; the values
found go back to the kept coordinates of the dense-shaped model that is then shrunk and proved.
Varied samples need more passes than the same ones to lead anywhere, and lead further: they are
taken where so many passes are affordable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnxprune import io
from onnxprune.axes import Bools
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.inputs import inputs_of
from onnxprune.calibration.operands import find_operand
from onnxprune.calibration.samples import rows_of
from onnxprune.calibration.stages import Stages, Stream
from onnxprune.calibration.variety import Variety
from onnxprune.errors import DataError
from onnxprune.gradients import NoGradient
from onnxprune.passes.shrink import Surgery, set_constant
from onnxprune.planning import find_layers
from onnxprune.recovery.apply import Feed, Progress, Reconstruction
from onnxprune.recovery.distil import BATCH, EPOCHS, Trained, train
from onnxprune.recovery.distil_graph import (
    Graph,
    Students,
    compared_points,
    graph_of,
)
from onnxprune.recovery.effort import macs_of
from onnxprune.recovery.lesson_feeds import by_shape, cut_feeds, moment_feeds
from onnxprune.recovery.lessons import Lessons, Teacher
from onnxprune.recovery.slopes import threads_of
from onnxprune.recovery.space import DAMPING, Space
from onnxprune.recovery.strides import measured
from onnxprune.rules.analysis import Analyzer, analyze

Array = npt.NDArray[Any]
#: Multiply-accumulates of the dense network over samples and epochs; fewer epochs beyond it.
BUDGET = 2.5e12
LEAST_EPOCHS = 2
#: Passes over varied samples, at least and at most; over the same ones, which are soon learnt by
#: heart, at most :data:`~onnxprune.recovery.distil.EPOCHS`.
LEAST_VARIED, VARIED_EPOCHS = 20, 24
#: Values inside that are compared.
MOST_POINTS = 16
#: Columns (a multiple of d) behind the moments of a layer's inputs; widest layer.
MOMENT_COLUMNS = 24
WIDEST = 3072


@dataclass
class Outcome:
    """What training came to.

    Attributes:
        agreement: with the dense network on held-out samples, or None where nothing was trained.
        why: then, what stood in the way.
        weights: by name, new values in the shape of the shrunk network.
        account: plain data for the report.
    """

    agreement: Agreement | None
    why: str
    weights: dict[str, Array]
    kept: Mapping[str, Sequence[Sequence[int] | None]]
    account: dict[str, Any]


def train_blocks(
    analyzer: Analyzer,
    removed: Bools,
    dense: onnx.ModelProto,
    feeds: Sequence[Feed],
    held: Sequence[Feed],
    judge: Judge,
    *,
    outputs: Sequence[str],
    variety: Variety,
    passes: float = 1.0,
    seed: int = 0,
    progress: Progress,
) -> Outcome:
    """Train what stays; nothing is written into the analyzed model.

    Args:
        analyzer: of the dense-shaped model with the values to start from.
        removed: components that will be deleted from it.
        dense: the network as it was, whose values have the same names.
        feeds: training samples.
        held: samples that decide which weights are taken.
        judge: of the dense network's values ``outputs`` on those.
        outputs: names of these values.
        variety: what may be done to training samples.
        passes: share of the passes that are taken otherwise.
        seed: for the order of samples.
        progress: called with (stage, fraction done).
    """
    try:
        return _train(
            analyzer, removed, dense, feeds, held, judge, variety,
            outputs=outputs, passes=passes, seed=seed, progress=progress,
        )  # fmt: skip
    except (NoGradient, DataError) as stop:  # what was found stands without
        return Outcome(None, str(stop), {}, {}, {})


def write_back(analyzer: Analyzer, outcome: Outcome) -> None:
    """Put trained values at the kept coordinates of the dense-shaped model."""
    for name, array in outcome.weights.items():
        value = analyzer.by_name[name]
        tensor = analyzer.tensor(value)
        assert tensor is not None
        whole = np.array(tensor.numpy())
        axes = outcome.kept.get(name) or [None] * whole.ndim
        places = [np.arange(n) if k is None else k for n, k in zip(whole.shape, axes, strict=True)]
        whole[np.ix_(*places)] = array
        set_constant(value, whole)


def _train(
    analyzer: Analyzer,
    removed: Bools,
    dense: onnx.ModelProto,
    feeds: Sequence[Feed],
    held: Sequence[Feed],
    judge: Judge,
    variety: Variety,
    *,
    outputs: Sequence[str],
    passes: float,
    seed: int,
    progress: Progress,
) -> Outcome:
    if analyzer.states:
        raise NoGradient("streaming states change their size")
    samples = sum(rows_of(f) for f in feeds)
    work = macs_of(analyzer, feeds) * max(samples, 1)
    epochs = int(BUDGET / max(work, 1))
    if epochs < LEAST_EPOCHS:
        raise NoGradient("the network is too large to be trained here")
    if epochs < LEAST_VARIED:
        variety = Variety()
    epochs = min(VARIED_EPOCHS if variety else EPOCHS, epochs)
    epochs = max(LEAST_EPOCHS, int(passes * epochs))
    feeds = by_shape(feeds)
    crops = crops_of(analyzer, removed)
    twin = io.load(analyzer.model).model
    again = analyze(twin, through_norms=analyzer.through_norms, inside_heads=analyzer.inside_heads)
    names = trainable(again)
    kept = Surgery(again, removed).shrink()
    stages = Stages(twin)
    stages.end_in(outputs)
    feeds = cut_feeds(feeds, stages.proto, twin)
    student = graph_of(stages.proto, feeds[0])
    names = [
        n
        for n in names
        if n in student.known
        and student.known[n].dtype == np.float32
        and (n in kept or student.known[n].shape == _shape(analyzer, n))
    ]
    made = {n for node in dense.graph.node for n in node.output}
    points, unfollowed = compared_points(student, names, made, MOST_POINTS)
    ends = [n for n in student.outputs if student.values[n].dtype == np.float32]
    if not names or not (ends or points):
        raise NoGradient("weights or outputs are not float32")
    threads = threads_of(feeds, BATCH)
    teacher = Teacher(dense, [*points, *ends], crops, threads=threads)
    shapes = {n: a.shape for n, a in teacher.values(feeds[0]).items()}
    alike = [n for n in points if shapes[n] == student.shapes[n]]
    for name in ends:
        if shapes[name] != student.shapes[name]:
            raise NoGradient(f"{name} is {student.shapes[name]}, of the dense {shapes[name]}")
    if alike != points:  # an axis whose coordinates are not told apart by name
        points, teacher = alike, Teacher(dense, [*alike, *ends], crops, threads=threads)
    spreads = teacher.spreads(feeds)
    classes = many_classes(stages, judge, student, spreads)
    graph = Students(stages.proto, feeds, names, spreads, classes=classes, threads=threads)
    last: dict[float, Agreement] = {}

    def disagreement(weights: Mapping[str, Array]) -> float:
        stream = Stream(stages, held)
        for name, array in weights.items():
            stream.weights[name] = numpy_helper.from_array(array, name)
        found = judge.judge(stream.finish())
        last[found.loss] = found
        return found.loss

    start = {n: student.known[n] for n in graph.weights}
    thin = Reconstruction(analyze(twin), moment_feeds(feeds), seed=seed)
    spaces = spaces_of(thin, Stream(thin.stages, thin.feeds), {})
    lessons = Lessons(feeds, teacher, variety, seed)
    strides = measured(graph, lessons, start, spaces, batch=BATCH, seed=seed)
    done: Trained = train(
        graph, start, lessons, spaces, disagreement, strides=strides,
        epochs=epochs, seed=seed, progress=progress,
    )  # fmt: skip
    account = {
        "weights": len(graph.weights),
        "compared": [*points, *ends],
        "unfollowed": unfollowed,
        "epochs": epochs,
        "variety": asdict(variety),
        "history": [list(row) for row in done.history],
    }
    return Outcome(last[done.loss], "", done.weights, kept, account)


def many_classes(stages: Stages, judge: Judge, student: Graph, among: Collection[str]) -> list[str]:
    """Those of ``among`` with several rows of classes a sample, as a language model's output."""
    judged = [n for n in stages.outputs if not stages.constant(n)]
    kinds = dict(zip(judged, judge.kinds, strict=True))
    return [n for n in among if kinds.get(n) == "classes" and student.values[n].ndim > 2]


def spaces_of(
    work: Reconstruction, stream: Stream, masks: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, Space]:
    """How every layer is trained, from second moments of its inputs.

    Args:
        work: knows the layers.
        stream: the student on a part of the samples, at its beginning.
        masks: by tensor name, what is kept.
    """
    todo = []
    for name, layer in work.layers.items():
        operand = find_operand(work.analyzer, layer)
        place = work.stages.place_of(layer.node)
        if not isinstance(operand, str) and place is not None:
            todo.append((place, name, operand))
    found = {}
    for place, name, operand in sorted(todo, key=lambda x: x[0]):
        if operand.layer.view_shape[2] * int(np.prod(operand.layer.view_shape[3:])) > WIDEST:
            continue
        stream.advance(place)
        size = int(np.prod(operand.layer.view_shape[2:]))
        seen = inputs_of(stream, operand)
        total = sum(map(operand.count, seen))
        share = min(1.0, MOMENT_COLUMNS * size / max(total, 1))
        moment, count = np.zeros((operand.layer.view_shape[0], size, size)), 0
        for index, array in enumerate(seen):
            limit = max(1, int(np.ceil(operand.count(array) * share)))
            chosen = operand.positions(array, limit, np.random.default_rng((work.seed, index)))
            columns = operand.columns(array, chosen)
            moment += np.matmul(columns, columns.transpose(0, 2, 1))
            count += columns.shape[2]
        # Fewer columns know less about what inputs do together, and a step into a direction that
        # they miss would be a hundred times too large.
        damping = DAMPING * max(1.0, MOMENT_COLUMNS * size / max(count, 1))
        try:
            found[name] = Space.build(operand, moment, masks.get(name), damping=damping)
        except np.linalg.LinAlgError:
            continue
    return found


def _shape(analyzer: Analyzer, name: str) -> tuple[int, ...] | None:
    value = analyzer.by_name.get(name)
    tensor = None if value is None else analyzer.tensor(value)
    return None if tensor is None else tuple(tensor.shape.numpy())


def crops_of(analyzer: Analyzer, removed: Bools) -> dict[str, list[Array | None]]:
    """For every value that loses coordinates, the kept ones of each axis, None for all."""
    found: dict[str, list[Array | None]] = {}
    labels = analyzer.partition.labels
    for key, ids in analyzer.space.keys.items():
        value, use, axis = cast("tuple[ir.Value, object, int]", key)
        if use is not None or not value.name:
            continue
        stays = ~removed[labels[ids]]
        if not stays.all():
            axes = found.setdefault(value.name, [None] * len(value.shape or ()))
            axes[axis] = np.flatnonzero(stays)
    return found


def followed(analyzer: Analyzer, value: ir.Value) -> bool:
    """Whether all that a constant does, in one place or several, is done by nodes in the open."""
    inside = any(use.node.graph is not analyzer.graph for use in value.uses())
    return not inside and not value.is_graph_output()


def trainable(analyzer: Analyzer) -> list[str]:
    """Names of weights, biases and scales of normalisations."""
    found: dict[str, None] = {}

    def add(value: ir.Value | None) -> None:
        if value is None or not value.name or analyzer.tensor(value) is None:
            return
        if followed(analyzer, value):
            found.setdefault(value.name)

    for layer in find_layers(analyzer):
        add(layer.value)
        operand = find_operand(analyzer, layer)
        site = None if isinstance(operand, str) else operand.bias
        if site is not None and site.index < len(site.node.inputs):
            add(site.node.inputs[site.index])
    for node in analyzer.graph:
        if node.op_type == "BatchNormalization":
            add(node.inputs[1])
            add(node.inputs[2])
    return list(found)
