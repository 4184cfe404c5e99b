"""The shrunk network trained block-wise against the dense one, and its weights put back.

Training runs on the network as it will be, with its channels gone, which costs least; the values
found go back to the kept coordinates of the dense-shaped model that is then shrunk and proved.
Samples are taken as they are: in these few passes varied ones led nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from onnxprune.calibration.stages import Stages, Stream
from onnxprune.errors import DataError
from onnxprune.gradients import NoGradient
from onnxprune.passes.shrink import Surgery, set_constant
from onnxprune.planning import find_layers
from onnxprune.planning.cost import CostModel
from onnxprune.recovery.apply import Feed, Progress, Reconstruction, rows_of
from onnxprune.recovery.distil import (
    BATCH,
    DAMPING,
    EPOCHS,
    Space,
    Trained,
    threads_of,
    train,
)
from onnxprune.recovery.distil_graph import (
    Students,
    graph_of,
    meeting_points,
    shape_of,
)
from onnxprune.recovery.lessons import Lessons, Teacher
from onnxprune.rules.analysis import Analyzer, analyze

Array = npt.NDArray[Any]
#: Multiply-accumulates of the dense network over samples and epochs; fewer epochs beyond it.
BUDGET = 2.5e12
LEAST_EPOCHS = 2
#: Bytes of the student's values in one step, as far as the batch can be cut: small ones stay in
#: the caches.
MEMORY = 96 << 20
#: Samples of one run where the batch can be cut: a step is several then, side by side.
MOST_ROWS = 16
#: Values inside that are compared.
MOST_POINTS = 16
#: Samples and columns (a multiple of d) behind the moments of a layer's inputs; widest layer.
MOMENT_SAMPLES = 192
#: Shapes of samples that are trained on, the most frequent ones, and the share that they must have.
MOST_SHAPES, LEAST_SHARE = 24, 0.5
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
        judge: of the dense network's outputs on those.
        seed: for the order of samples.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run a model.
    """
    try:
        return _train(analyzer, removed, dense, feeds, held, judge, seed=seed, progress=progress)
    except NoGradient as stop:
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
    *,
    seed: int,
    progress: Progress,
) -> Outcome:
    if analyzer.states:
        raise NoGradient("streaming states change their size")
    samples = sum(rows_of(f) for f in feeds)
    work = CostModel(analyzer).macs() * max(samples, 1)
    epochs = min(EPOCHS, int(BUDGET / max(work, 1)))
    if epochs < LEAST_EPOCHS:
        raise NoGradient("the network is too large to be trained here")
    feeds = by_shape(feeds)
    crops = crops_of(analyzer, removed)
    twin = io.load(analyzer.model).model
    again = analyze(twin, through_norms=analyzer.through_norms, inside_heads=analyzer.inside_heads)
    names = trainable(again)
    kept = Surgery(again, removed).shrink()
    stages = Stages(twin)
    feeds = cut_feeds(feeds, stages.proto, twin)
    student = graph_of(stages.proto, feeds[0])
    points = meeting_points(student)
    if len(points) > MOST_POINTS:
        at = np.unique(np.linspace(0, len(points) - 1, MOST_POINTS).astype(int))
        points = [points[i] for i in at]
    ends = [n for n in student.outputs if student.values[n].dtype == np.float32]
    threads = threads_of(feeds, BATCH)
    teacher = Teacher(dense, [*points, *ends], crops, threads=threads)
    spreads = teacher.spreads(feeds)
    for name, shape in ((n, a.shape) for n, a in teacher.values(feeds[0]).items()):
        if shape != student.shapes[name]:
            raise NoGradient(f"{name} is {student.shapes[name]}, of the dense {shape}")
    names = [
        n
        for n in names
        if n in student.known
        and student.known[n].dtype == np.float32
        and (n in kept or student.known[n].shape == _shape(analyzer, n))
    ]
    graph = Students(stages.proto, feeds, names, spreads, threads=threads)
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
    done: Trained = train(
        graph, start, Lessons(feeds, teacher), spaces, disagreement,
        epochs=epochs, seed=seed, progress=progress,
    )  # fmt: skip
    account = {
        "weights": len(graph.weights),
        "compared": [*points, *student.outputs],
        "epochs": epochs,
        "history": [list(row) for row in done.history],
    }
    return Outcome(last[done.loss], "", done.weights, kept, account)


def moment_feeds(feeds: Sequence[Feed]) -> Sequence[Feed]:
    """The feeds behind second moments."""
    wanted = -(-MOMENT_SAMPLES // max(1, rows_of(feeds[0])))
    return feeds[:: max(1, len(feeds) // wanted)]


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


def trainable(analyzer: Analyzer) -> list[str]:
    """Names of weights, biases and scales of normalisations that only one node reads."""
    found: dict[str, None] = {}

    def add(value: ir.Value | None) -> None:
        if value is None or not value.name or analyzer.tensor(value) is None:
            return
        if len(list(value.uses())) == 1 and not value.is_graph_output():
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
    """Smaller feeds where a step would take much memory and the model leaves the batch open."""
    rows = max(rows_of(f) for f in feeds)
    shapes = [v.shape for v in model.graph.inputs if v.name in feeds[0]]
    free = all(s is not None and len(s) and not isinstance(s[0], int) for s in shapes)
    if not free or rows < 2:
        return list(feeds)
    largest = max(feeds, key=lambda f: sum(np.asarray(a).nbytes for a in f.values()) / rows_of(f))
    one = graph_of(proto, {n: np.asarray(a)[:1] for n, a in largest.items()})
    size = sum(a.nbytes for a in one.values.values())
    most = max(1, int(MEMORY / max(size, 1)))
    out: list[Feed] = []
    for feed in feeds:
        part = min(rows_of(feed), most, MOST_ROWS)
        for at in range(0, rows_of(feed) // part * part, part):
            out.append({n: np.asarray(a)[at : at + part] for n, a in feed.items()})
    if not out:
        raise DataError("a batch without samples")
    return out
