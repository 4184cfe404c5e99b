"""One ONNX model that runs a student, compares it with its teacher, and differentiates that.

The student's weights are inputs of the model, so that a step of an optimiser needs no new session.
Compared are values inside the network where everything that flows passes through one tensor (the
end of a residual block), and the outputs: squared error over the variance in the dense network.
Where a sample has many rows of classes (a language model's, one a token), their divergence is added
(Hinton et al. 2015). Of one row a sample it is left out on purpose: a thousand samples are soon
learnt by heart by it, while inner values, of which every sample holds thousands, are not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.agreement import distributions
from onnxprune.calibration.stages import session
from onnxprune.errors import DataError
from onnxprune.formats.weights import DOMAIN
from onnxprune.gradients import SIZES, Emitter, NoGradient, backward
from onnxprune.gradients.emit import OPSET
from onnxprune.gradients.rules_layers import with_varying_weight
from onnxprune.runtime.library import training_operators

Array = npt.NDArray[Any]
#: Sessions of more shapes than this keep no memory between two runs.
FEW_SHAPES = 4
#: Weight of the divergence of classes, in nats a row, beside the squared errors.
CLASSES = 0.3


@dataclass
class Graph:
    """A network at an opset that derivatives are written in.

    Attributes:
        nodes: all nodes, constants first.
        constants: initializers by name.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        opset: all imports.
        shapes, known: of all values on one feed; numbers of what depends on no input, or only on
            the sizes of some.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, onnx.TensorProto]
    inputs: list[str]
    outputs: list[str]
    opset: list[onnx.OperatorSetIdProto]
    ir_version: int
    types: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    known: dict[str, Array]
    values: dict[str, Array]

    def opened(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        ends: Sequence[str],
        constants: Sequence[onnx.TensorProto],
        *,
        threads: int = 0,
        arena: bool = True,
    ) -> ort.InferenceSession:
        """Open a session of nodes at this graph's opset, those of our runtime library among them.

        Args:
            nodes: in order.
            inputs: of the session.
            ends: names of its outputs.
            constants: initializers.
            threads: of one run, as many as there are cores when 0.
            arena: keep the memory of one run for the next.

        Raises:
            DataError: onnxruntime does not take the model.
        """
        made = helper.make_graph(
            nodes, "derivatives", inputs, [onnx.ValueInfoProto(name=n) for n in ends], constants
        )
        model = onnx.ModelProto(ir_version=self.ir_version, graph=made)
        model.opset_import.extend(self.opset)
        native = any(n.domain == DOMAIN for n in nodes)
        if native and all(o.domain != DOMAIN for o in self.opset):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return session(model.SerializeToString(), threads, arena=arena, native=native)


def graph_of(proto: onnx.ModelProto, feed: Mapping[str, Array]) -> Graph:
    """Run a model once and write down what its values are.

    Raises:
        NoGradient: it cannot be brought to opset 17.
        DataError: onnxruntime does not run it.
    """
    version = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < OPSET:
        old, proto = proto, onnx.ModelProto()
        proto.CopyFrom(old)
        proto.ir_version = max(old.ir_version, 8)  # constants need not be inputs
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        except Exception as error:  # the converter raises what its C++ raises
            raise NoGradient(f"opset {version} cannot be brought to {OPSET}") from error
    if proto.functions:
        raise NoGradient("local functions")
    graph = proto.graph
    constants = {t.name: t for t in graph.initializer}
    inputs = [v.name for v in graph.input if v.name not in constants]
    made = [n for node in graph.node for n in node.output if n]
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    del probe.graph.output[:], probe.graph.value_info[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made)
    got = session(probe.SerializeToString()).run(made, {n: feed[n] for n in inputs})
    values = dict(zip(made, (np.asarray(a) for a in got), strict=True))
    fixed = set(constants)
    for node in graph.node:
        if node.op_type in SIZES or (
            not any(a.type in (5, 10) for a in node.attribute)
            and all(n in fixed for n in node.input if n)
        ):
            fixed.update(node.output)
    known = {n: a for n, a in values.items() if n in fixed}
    known.update((n, numpy_helper.to_array(t)) for n, t in constants.items())
    shapes = {n: a.shape for n, a in {**values, **known, **dict(feed)}.items()}
    types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    return Graph(
        list(graph.node), constants, inputs, [v.name for v in graph.output],
        list(proto.opset_import), proto.ir_version, types, shapes, known, values,
    )  # fmt: skip


def meeting_points(graph: Graph, weights: Collection[str]) -> list[str]:
    """Values that all of the network behind them depends on alone, in graph order.

    Taken are those that a layer, or several nodes, read: the ends of residual blocks, and in a
    plain network the inputs of its layers. What no weight has moved yet is the same in the dense
    network: it is no such value, and it does not count beside one where it is read until late (an
    attention mask, the picture that is added at the end). Readers of sizes do not count either.
    """
    last: dict[str, int] = {}
    readers: dict[str, list[onnx.NodeProto]] = {}
    moved = set(weights)
    for index, node in enumerate(graph.nodes):
        if node.op_type in SIZES:
            continue
        if not moved.isdisjoint(node.input):
            moved.update(n for n in node.output if n and n not in graph.known)
        for name in node.input:
            last[name] = index
            readers.setdefault(name, []).append(node)
    for name in graph.outputs:
        last[name] = len(graph.nodes)
    beside = {n for n in last if n not in moved and last[n] > len(graph.nodes) // 2}
    live = {n for n in graph.inputs if n in last and n not in beside}
    found = []
    for index, node in enumerate(graph.nodes):
        made = (n for n in node.output if n and n not in graph.known and n in last)
        live.update(n for n in made if n not in beside)
        live = {n for n in live if last[n] > index}
        if len(live) != 1:
            continue
        (name,) = live
        if name in found or name not in moved or name in graph.outputs:
            continue
        heavy = ("Conv", "ConvTranspose", "Gemm", "MatMul")
        users = readers[name]
        if graph.values[name].dtype == np.float32 and (len(users) > 1 or users[0].op_type in heavy):
            found.append(name)
    return found


def compared_points(
    graph: Graph, weights: Sequence[str], made: Collection[str], most: int
) -> tuple[list[str], list[str]]:
    """Return the values inside that are compared, in graph order, and where derivatives end.

    Meeting points, and what nodes read whose derivative is not known: what lies before them learns
    from that value, what lies behind from the outputs.

    Args:
        graph: the student.
        weights: what is trained.
        made: values that the dense network has, too.
        most: values of either kind at most, spread out.
    """
    e = Emitter(graph.shapes, graph.known, OPSET)
    seeds = {}
    for name, array in graph.values.items():
        if array.dtype == np.float32:
            seeds[name] = f"seed/{name}"
            e.shapes[seeds[name]] = array.shape
    ends: dict[str, str] = {}
    backward(e, graph.nodes, seeds, weights, ends)
    chosen: set[str] = set()
    for names in (meeting_points(graph, weights), ends):
        fit = [n for n in graph.values if n in names and n in seeds and n in made]
        fit = [n for n in fit if n not in graph.known and n not in graph.outputs]
        places = np.unique(np.linspace(0, len(fit) - 1, min(most, len(fit))).astype(int))
        chosen.update(fit[i] for i in places)
    return [n for n in graph.values if n in chosen], sorted(set(ends.values()))


class Distillation:
    """A student in one session: its distance from given values, and the derivatives of that."""

    def __init__(
        self,
        student: Graph,
        weights: Sequence[str],
        spreads: Mapping[str, float],
        *,
        classes: Collection[str] = (),
        threads: int = 0,
        arena: bool = True,
    ) -> None:
        """Write the model.

        Args:
            student: the pruned network.
            weights: constants of it to be trained, float32.
            spreads: values to compare, and the variance of each in the dense network.
            classes: outputs among them whose rows are distributions, or the logits of one.
            threads: of one run, as many as there are cores when 0.
            arena: keep the memory of one step for the next.

        Raises:
            NoGradient: no weight's influence can be followed.
            DataError: onnxruntime does not take the model.
        """
        e = Emitter(student.shapes, student.known, OPSET, training_operators())
        seeds: dict[str, str] = {}
        losses: list[str] = []
        for name, spread in spreads.items():
            e.shapes[f"want/{name}"] = student.shapes[name]
            factor = 1.0 / (max(spread, 1e-12) * max(int(np.prod(student.shapes[name])), 1))
            loss, seeds[name] = e.squares(name, f"want/{name}", factor)
            losses.append(loss)
        for name in classes:
            divergence = _divergence(e, student, name) if name in spreads else None
            if divergence is not None:
                loss, at, slope = divergence
                losses.append(loss)
                seeds[at] = e.binary("Add", seeds[at], slope) if at in seeds else slope
        self._losses = len(losses)
        grads = backward(e, student.nodes, seeds, weights, {})
        self.weights = [n for n in weights if n in grads]
        self.spreads = dict(spreads)
        if not self.weights:
            raise NoGradient("no weight has an influence that can be followed")
        fixed = {n: t for n, t in student.constants.items() if n not in self.weights}
        fixed.update(e.constants)
        free = [*(f"want/{n}" for n in spreads), *self.weights]
        inputs = [
            helper.make_tensor_value_info(n, student.types[n], None) for n in student.inputs
        ] + [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in free]
        trained = set(self.weights)
        nodes = [
            with_varying_weight(e, n) if trained.intersection(n.input[1:2]) else n
            for n in student.nodes
            if not set(n.output) <= trained
        ]
        nodes += e.nodes
        self.nodes = len(nodes)
        # A derivative may be another's name, and outputs must differ.
        ends = []
        for place, name in enumerate([*losses, *(grads[n] for n in self.weights)]):
            ends.append(f"end/{place}")
            nodes.append(helper.make_node("Identity", [name], [ends[-1]]))
        self.session = student.opened(
            nodes, inputs, ends, list(fixed.values()), threads=threads, arena=arena
        )
        self.inputs = student.inputs

    def run(
        self, feed: Mapping[str, Array], want: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> tuple[float, dict[str, Array]]:
        """Return the summed loss, and the derivative of every weight.

        Args:
            feed: inputs of the network.
            want: the values to compare with, by name.
            weights: what is trained.

        Raises:
            DataError: onnxruntime does not run it.
        """
        given = {n: feed[n] for n in self.inputs} | {n: weights[n] for n in self.weights}
        given |= {f"want/{n}": want[n].astype(np.float32, copy=False) for n in self.spreads}
        try:
            got = self.session.run(None, given)
        except Exception as error:  # onnxruntime raises its own types, one per status code
            told = " ".join(str(error).split())[:300]
            raise DataError(f"onnxruntime cannot run the derivatives: {told}") from error
        count = self._losses
        loss = float(sum(float(np.sum(x)) for x in got[:count]))
        return loss, dict(zip(self.weights, got[count:], strict=True))


def _divergence(e: Emitter, student: Graph, name: str) -> tuple[str, str, str] | None:
    """Divergence of an output's rows of classes from those wanted, by their logits.

    Returns:
        The divergence, the logits and its derivative there; None where probabilities come from
        anything but a Softmax.
    """
    shape = student.shapes[name]
    at, wanted = name, f"want/{name}"
    if distributions(student.values[name]):
        maker = next((n for n in student.nodes if name in n.output), None)
        if maker is None or maker.op_type != "Softmax":
            return None
        at = maker.input[0]
    else:
        wanted = e.unary("Softmax", wanted, axis=-1)
    logs = e.unary("LogSoftmax", at, axis=-1)
    least = e.const(np.float32(1e-12))
    gap = e.binary("Sub", e.unary("Log", e.binary("Max", wanted, least)), logs)
    factor = CLASSES / max(int(np.prod(shape[:-1])), 1)
    loss = e.scaled(e.sum(e.mul(wanted, gap), range(len(shape))), factor)
    slope = e.binary("Sub", e.unary("Softmax", at, axis=-1), wanted)
    return loss, at, e.scaled(slope, factor)


class Students:
    """The same student for samples of several shapes: a session for each."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        feeds: Sequence[Mapping[str, Array]],
        weights: Sequence[str],
        spreads: Mapping[str, float],
        *,
        classes: Collection[str] = (),
        threads: int = 0,
    ) -> None:
        """Write the models; arguments are those of :class:`Distillation` and :func:`graph_of`.

        Raises:
            NoGradient: no weight's influence can be followed.
            DataError: onnxruntime does not take the model.
        """
        firsts = {shape_of(feed): feed for feed in reversed(feeds)}
        few = len(firsts) <= FEW_SHAPES
        self._made = {
            key: Distillation(
                graph_of(proto, feed),
                weights,
                spreads,
                classes=classes,
                threads=threads,
                arena=few,
            )
            for key, feed in reversed(firsts.items())
        }
        first = next(iter(self._made.values()))
        self.weights = first.weights
        self.spreads = dict(spreads)

    def nodes(self, feed: Mapping[str, Array]) -> int:
        """Return how many nodes a run on samples of the feed's shapes takes."""
        return self._made[shape_of(feed)].nodes

    def run(
        self, feed: Mapping[str, Array], want: Mapping[str, Array], weights: Mapping[str, Array]
    ) -> tuple[float, dict[str, Array]]:
        """See :meth:`Distillation.run`."""
        return self._made[shape_of(feed)].run(feed, want, weights)


def shape_of(feed: Mapping[str, Array]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of a feed."""
    return tuple((n, np.asarray(feed[n]).shape) for n in sorted(feed))
