"""How much of the network's outputs hangs on each position of a layer's output.

Least squares count every position alike. Where an output saturates, most positions hardly matter:
of a recommender's logits behind a Sigmoid those far below zero give nothing whatever they are, and
what fits them best fits the others worse than zeros do. Noise on the outputs, taken back through
the dense network, has at every position a square that is the trace of the Gauss-Newton matrix
there (Hutchinson 1989; as weights of Gram matrices: GuidedQuant, Kim et al. 2025). Columns count by
it where it lies on few positions in every layer, the last ones too, which is what saturation does.
Elsewhere (layers far from the outputs have places that hardly matter) it changed nothing for the
better, and weights that vary take away some of the samples: there all count alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onnxprune.calibration.agreement import distributions, spread_of
from onnxprune.calibration.operands import CONVS, Operand
from onnxprune.calibration.stages import Stages, Stream
from onnxprune.errors import DataError
from onnxprune.gradients import SIZES, Emitter, NoGradient, backward
from onnxprune.gradients.emit import OPSET
from onnxprune.recovery.distil_graph import Graph, graph_of, shape_of
from onnxprune.runtime.library import training_operators

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
Feed = Mapping[str, Array]
#: Share of the positions that saliency lies on, ``(sum s)^2 / (n sum s^2)``, below which columns
#: count by it: 0.15 in a recommender's layers, up to 0.9 and more in networks that give logits.
FEW_POSITIONS = 0.5
#: Share of its weight that a column has in any case: where the dense network saturates the pruned
#: one may not.
FLOOR = 0.1
#: Samples that tell on how many positions it lies.
PROBE = 64
#: Multiply-accumulates of the dense network over all samples; no weights beyond it.
BUDGET = 3e11
#: Sessions that are opened at most, one for each shape of samples.
MOST_SHAPES = 24


@dataclass(frozen=True)
class Saliency:
    """Weights of columns, mean 1 a layer.

    Attributes:
        layers: by name of the layer's output, for every feed a number a position, first axis
            samples; layers that are not there count all alike.
    """

    layers: Mapping[str, Sequence[F32]] = field(default_factory=dict)

    @staticmethod
    def of(
        stages: Stages, operands: Sequence[Operand], feeds: Sequence[Feed], macs: float
    ) -> Saliency:
        """Work it out on the dense network; nothing where derivatives are not to be had.

        Args:
            stages: the dense network.
            operands: layers.
            feeds: samples.
            macs: multiply-accumulates of the network for all of them.
        """
        axes = {n: axis for n, axis in map(_output, operands) if axis is not None}
        shapes = {shape_of(feed) for feed in feeds}
        if not axes or macs > BUDGET or len(shapes) > MOST_SHAPES:
            return ALIKE
        try:
            rows = max(1, np.shape(next(iter(feeds[0].values())))[0] if feeds[0] else 1)
            probe = feeds[: -(-PROBE // rows)]
            found = _squares(stages, axes, probe)
            if max(map(_share, found.values())) >= FEW_POSITIONS:
                return ALIKE
            found = _squares(stages, axes, feeds)
        except (NoGradient, DataError):
            return ALIKE
        return Saliency({n: _weights(parts) for n, parts in found.items()})

    def weights(self, operand: Operand, feed: int, chosen: Array | None) -> F32 | None:
        """Return the weight of every column of a feed [N]; None where all count alike.

        Args:
            operand: the layer.
            feed: which.
            chosen: positions that the columns were taken at; None for all.
        """
        parts = self.layers.get(operand.layer.node.outputs[0].name or "")
        if parts is None:
            return None
        if operand.layer.node.op_type in CONVS:
            rows = parts[feed].reshape(parts[feed].shape[0], -1)
            return (rows if chosen is None else rows[:, chosen]).reshape(-1)
        flat = parts[feed].ravel()
        return flat if chosen is None else flat[chosen]


#: Of layers whose columns all count alike.
ALIKE = Saliency()


def _output(operand: Operand) -> tuple[str, int | None]:
    """Name of a layer's output, and its axis of channels; None where columns are none of its."""
    node = operand.layer.node
    name = node.outputs[0].name or ""
    if node.op_type in CONVS:
        return name, 1
    plain = node.op_type in ("MatMul", "Gemm") and not operand.state
    return name, -1 if plain and operand.axis(2) == 1 else None


def _share(parts: Sequence[F32]) -> float:
    """Share of positions that numbers lie on: 1 where all are alike."""
    flat = np.concatenate([p.ravel() for p in parts]).astype(np.float64)
    squares = float((flat * flat).mean())
    return float(flat.mean()) ** 2 / squares if squares > 0 else 1.0


def _weights(parts: Sequence[F32]) -> list[F32]:
    mean = float(np.concatenate([p.ravel() for p in parts]).mean(dtype=np.float64))
    return [(FLOOR + (1 - FLOOR) / mean * p).astype(np.float32) for p in parts]


def _squares(
    stages: Stages, axes: Mapping[str, int], feeds: Sequence[Feed]
) -> dict[str, list[F32]]:
    """Squares of what noise on the outputs is at layers' outputs, summed over channels."""
    start = Stream(stages, [feeds[0]])
    types = {n: helper.np_dtype_to_tensor_dtype(a.dtype) for n, a in start.values[0].items()}
    whole = stages.cut(0, len(stages.nodes), types, {}, {})
    if whole is None:
        raise NoGradient("no output depends on an input")
    proto = onnx.load_model_from_string(whole[0])
    made: dict[Any, _Backward] = {}
    scales: dict[str, float] = {}
    found: dict[str, list[F32]] = {}
    for index, feed in enumerate(feeds):
        key = shape_of(feed)
        if key not in made:
            made[key] = _Backward(graph_of(proto, feed), axes, scales)
        for name, array in made[key].run(feed, np.random.default_rng(index)).items():
            found.setdefault(name, []).append(array)
    # What is not followed for all shapes alike is not known.
    return {n: parts for n, parts in found.items() if len(parts) == len(feeds)}


class _Backward:
    """Noise on a network's outputs taken back to values inside, for samples of one shape."""

    def __init__(self, graph: Graph, axes: Mapping[str, int], scales: dict[str, float]) -> None:
        """Write the model; ``scales`` are of the noise on outputs, those of the first samples."""
        e = Emitter(graph.shapes, graph.known, OPSET, training_operators())
        seeds: dict[str, str] = {}
        for name in graph.outputs:
            array = graph.values.get(name)
            if array is None or array.dtype != np.float32 or not array.size:
                continue
            at = _logits(graph, name)
            noise = f"noise/{name}"
            e.shapes[noise] = graph.shapes[name]
            usual = float(np.sqrt(spread_of(graph.values[at]) * array.size))
            part = e.scaled(noise, scales.setdefault(name, 1 / usual))
            seeds[at] = e.binary("Add", seeds[at], part) if at in seeds else part
        self._noise = {n.removeprefix("noise/"): n for n in e.shapes if n.startswith("noise/")}
        self._shapes = {n: graph.shapes[n] for n in self._noise}
        ends: dict[str, str] = {}
        names = [n for n in axes if n in graph.shapes]
        grads = backward(e, graph.nodes, seeds, names, ends)
        hidden = _before(graph, ends)
        self._names = [n for n in names if n in grads and n not in hidden]
        if not self._names:
            raise NoGradient("no layer's influence can be followed")
        squares = [
            e.sum(e.mul(grads[n], grads[n]), [axes[n] % len(graph.shapes[n])]) for n in self._names
        ]
        ends_at = [e.unary("Identity", name) for name in squares]  # outputs must differ
        nodes = [*graph.nodes, *e.nodes]
        inputs = [helper.make_tensor_value_info(n, graph.types[n], None) for n in graph.inputs]
        inputs += [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in self._noise.values()
        ]
        constants = [*graph.constants.values(), *e.constants.values()]
        self._session = graph.opened(nodes, inputs, ends_at, constants)
        self._inputs = graph.inputs

    def run(self, feed: Feed, rng: np.random.Generator) -> dict[str, F32]:
        """Return the squares by name.

        Raises:
            DataError: onnxruntime does not run it.
        """
        given = {n: feed[n] for n in self._inputs}
        for name, noise in self._noise.items():
            given[noise] = signs(rng, self._shapes[name])
        try:
            got = self._session.run(None, given)
        except Exception as error:  # onnxruntime raises its own types, one per status code
            told = " ".join(str(error).split())[:300]
            raise DataError(f"onnxruntime cannot run the derivatives: {told}") from error
        return dict(zip(self._names, got, strict=True))


def signs(rng: np.random.Generator, shape: tuple[int, ...]) -> F32:
    """Noise of -1 and 1: of an output of one number the squares are then exact."""
    return 2 * (rng.random(shape) < 0.5).astype(np.float32) - 1


def _logits(graph: Graph, name: str) -> str:
    """What a Softmax at the end reads, where an output is made by one, else the output.

    Classes are compared by their divergence, which sees every sample, sure or not.
    """
    maker = next((n for n in graph.nodes if name in n.output), None)
    if maker is not None and maker.op_type == "Softmax" and distributions(graph.values[name]):
        return str(maker.input[0])
    return name


def _before(graph: Graph, ends: Mapping[str, str]) -> set[str]:
    """Values from which a way leads to where derivatives end: their influence is not all known."""
    hidden = set(ends)
    for node in reversed(graph.nodes):
        if node.op_type not in SIZES and any(name in hidden for name in node.output):
            hidden.update(node.input)
    return hidden
