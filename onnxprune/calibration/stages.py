"""A network run a stretch of nodes at a time, with what is live in between kept for all samples.

Sequential reconstruction needs every layer's input twice: from the dense network, and from the one
whose prefix is already pruned. Running either prefix anew for every layer would cost a number of
forward passes that grows with the square of the depth; two :class:`Stream` objects that advance
from layer to layer cost two forward passes in all. What is live between two stretches lies in
memory up to a budget and in a temporary file beyond it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper

from onnxprune import io
from onnxprune.errors import DataError
from onnxprune.runtime.library import add_operators

Array = npt.NDArray[Any]
#: Bytes of live values that one stream keeps in memory before it turns to a temporary file.
MEMORY = 1 << 30
_DRAWS = ("RandomNormal", "RandomUniform")


class Stages:
    """The main graph of a model, ready to be cut between any two nodes.

    Attributes:
        proto: the whole model.
        nodes: the nodes that depend on inputs, in graph order.
        outputs: names of the values that :meth:`Stream.finish` gives: the graph's outputs, unless
            :meth:`end_in` names others.
    """

    def __init__(self, model: ir.Model) -> None:
        self.proto = io.to_proto(model)
        graph = self.proto.graph
        self._initializers = {t.name: t for t in graph.initializer}
        self.inputs = [v.name for v in graph.input if v.name not in self._initializers]
        self.outputs = [v.name for v in graph.output]
        self._makers: dict[str, onnx.NodeProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        known = set(self._initializers)
        for node in graph.node:
            if node.op_type not in _DRAWS and all(n in known for n in used(node)):
                known.update(node.output)
                self._makers.update((name, node) for name in node.output)
            else:
                self.nodes.append(node)
        self._place = {n: i for i, node in enumerate(self.nodes) for n in node.output if n}
        self._last = self._ends()

    def _ends(self) -> dict[str, int]:
        """The last node that reads a value."""
        last = dict.fromkeys(self.outputs, len(self.nodes))
        for index, node in enumerate(self.nodes):
            for name in used(node):
                last[name] = max(last.get(name, -1), index)
        return last

    def end_in(self, names: Sequence[str]) -> None:
        """Make other values the network's outputs, here and in :attr:`proto`."""
        if list(names) == self.outputs:
            return
        self.outputs = list(names)
        self._last = self._ends()
        del self.proto.graph.output[:]
        self.proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)

    def place(self, output: str) -> int | None:
        """Return the index of the node that makes ``output``; None for constants and inputs."""
        return self._place.get(output)

    def place_of(self, node: ir.Node) -> int | None:
        """Return the index of a node, whose first outputs may be left out; None for constants."""
        return next((self.place(v.name) for v in node.outputs if v.name), None)

    def live(self, name: str, stop: int) -> bool:
        """Whether the nodes from ``stop`` on, or the graph's outputs, read ``name``."""
        return self._last.get(name, -1) >= stop

    def constant(self, name: str) -> bool:
        """Whether ``name`` depends on no input."""
        return name in self._initializers or name in self._makers

    def cut(
        self,
        start: int,
        stop: int,
        types: Mapping[str, int],
        weights: Mapping[str, onnx.TensorProto],
        edits: Mapping[int, onnx.NodeProto],
    ) -> tuple[bytes, list[str], list[str]] | None:
        """Return nodes ``start`` to ``stop`` as a model of their own.

        Args:
            start: index of the first node.
            stop: index after the last one.
            types: element types of the values that live at ``start``.
            weights: constants that take the place of the model's, by name.
            edits: nodes that take the place of the model's, by index.

        Returns:
            The model, its inputs and its outputs; None when nothing of it is ever read.
        """
        nodes = [edits.get(i, self.nodes[i]) for i in range(start, stop)]
        outs = [n for node in nodes for n in node.output if n and self.live(n, stop)]
        return self.model(nodes, outs, types, weights) if outs else None

    def model(
        self,
        nodes: Sequence[onnx.NodeProto],
        outs: list[str],
        types: Mapping[str, int],
        weights: Mapping[str, onnx.TensorProto],
    ) -> tuple[bytes, list[str], list[str]]:
        """Return ``nodes`` as a model of their own that gives ``outs``; see :meth:`cut`."""
        made = {name for node in nodes for name in node.output if name}
        todo = [n for node in nodes for n in used(node)] + outs
        held: dict[str, onnx.TensorProto] = {}
        makers: dict[str, onnx.NodeProto] = {}
        inputs: dict[str, None] = {}
        seen: set[str] = set()
        while todo:
            name = todo.pop()
            if name in made or name in seen:
                continue
            seen.add(name)
            if name in weights:
                held[name] = weights[name]
            elif name in types:
                inputs[name] = None
            elif name in self._initializers:
                held[name] = self._initializers[name]
            elif name in self._makers:
                makers[self._makers[name].output[0]] = self._makers[name]
                todo.extend(used(self._makers[name]))
        # Graph order: makers were met in it.
        order = list(dict.fromkeys(id(m) for m in self._makers.values()))
        wanted = {id(m): m for m in makers.values()}
        first = [wanted[i] for i in order if i in wanted]
        first = [_without(m, held) for m in first]
        model = onnx.ModelProto(
            ir_version=self.proto.ir_version,
            opset_import=self.proto.opset_import,
            functions=self.proto.functions,
        )
        graph = model.graph  # filled in its place: a graph put into a model is copied
        graph.name = "stretch"
        graph.node.extend([*(m for m in first if m is not None), *nodes])
        graph.input.extend(_info(n, types[n]) for n in inputs)
        graph.output.extend(onnx.ValueInfoProto(name=n) for n in outs)
        graph.initializer.extend(held.values())
        return model.SerializeToString(), list(inputs), outs


def _without(node: onnx.NodeProto, held: Mapping[str, Any]) -> onnx.NodeProto | None:
    """The node, unless a constant has taken the place of all it makes."""
    return None if all(name in held for name in node.output if name) else node


def used(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names a node reads, those its subgraphs capture included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inner = {n for sub in graph.node for n in sub.output}
            inner.update(v.name for v in (*graph.input, *graph.initializer))
            for sub in graph.node:
                yield from (n for n in used(sub) if n not in inner)
            yield from (v.name for v in graph.output if v.name not in inner)


def session(
    model: bytes, threads: int = 0, *, arena: bool = True, native: bool = False
) -> ort.InferenceSession:
    """Open a quiet session whose idle threads leave the cores to others.

    Args:
        model: serialised.
        threads: as many as there are cores when 0.
        arena: keep the memory of one run for the next.
        native: it has operators of our runtime library.

    Raises:
        DataError: onnxruntime does not take the model.
    """
    options = ort.SessionOptions()
    if native:
        add_operators(options)
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, one per status code
        told = " ".join(str(error).split())[:300]
        raise DataError(f"onnxruntime cannot run a part of the model: {told}") from error


class Stream:
    """One network on all samples, advanced to a place in the graph.

    Attributes:
        at: index of the next node to run.
        values: a dict a feed, name -> live value; not to be changed.
    """

    def __init__(self, stages: Stages, feeds: Sequence[Mapping[str, Array]]) -> None:
        self.stages = stages
        self.at = 0
        self.values: list[dict[str, Array]] = [
            {n: np.asarray(v) for n, v in feed.items() if stages.live(n, 0)} for feed in feeds
        ]
        self.weights: dict[str, onnx.TensorProto] = {}
        self.edits: dict[int, onnx.NodeProto] = {}

    def fork(self, feeds: Sequence[int] | None = None) -> Stream:
        """Return a second stream at the same place, sharing all values so far.

        Args:
            feeds: indices of the feeds it has; None for all.
        """
        other = Stream(self.stages, ())
        other.at = self.at
        chosen = range(len(self.values)) if feeds is None else feeds
        other.values = [dict(self.values[i]) for i in chosen]
        other.weights, other.edits = dict(self.weights), dict(self.edits)
        return other

    def advance(self, stop: int) -> None:
        """Run the nodes before ``stop``.

        Raises:
            DataError: onnxruntime cannot run them.
        """
        if stop <= self.at or not self.values:
            return
        types = {n: _type(a) for n, a in self.values[0].items()}
        cut = self.stages.cut(self.at, stop, types, self.weights, self.edits)
        if cut is not None:
            model, inputs, outputs = cut
            runner = session(model)
            keeper = Keeper()
            for feed in self.values:
                got = _run(runner, outputs, inputs, feed)
                dead = [n for n in feed if not self.stages.live(n, stop)]
                for name in dead:
                    del feed[name]
                feed.update(zip(outputs, keeper.keep(got), strict=True))
        self.at = stop

    def peek(self, nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> list[list[Array]]:
        """Return values by name, a list a feed, without advancing.

        Args:
            nodes: run for it; they read what is live here, and constants.
            names: what they make, what is live, and constants.

        Raises:
            DataError: onnxruntime cannot run the nodes.
        """
        first = self.values[0] if self.values else {}
        inner = {n: f"{n}:seen" for n in names if n not in first}
        if not inner:
            return [[feed[n] for n in names] for feed in self.values]
        # A constant cannot be an output; what copies it can.
        copies = [helper.make_node("Identity", [n], [name]) for n, name in inner.items()]
        types = {n: _type(a) for n, a in first.items()}
        made = [*nodes, *copies]
        model, inputs, outputs = self.stages.model(made, list(inner.values()), types, self.weights)
        runner = session(model)
        keeper = Keeper()
        found = []
        for feed in self.values:
            got = dict(zip(inner, keeper.keep(_run(runner, outputs, inputs, feed)),
                           strict=True))  # fmt: skip
            found.append([got[n] if n in got else feed[n] for n in names])
        return found

    def finish(self) -> list[list[Array]]:
        """Run what is left and return the graph's outputs, a list a feed.

        Raises:
            DataError: onnxruntime cannot run it.
        """
        self.advance(len(self.stages.nodes))
        return [[feed[n] for n in self.stages.outputs if n in feed] for feed in self.values]


def _run(
    runner: ort.InferenceSession,
    outputs: Sequence[str],
    inputs: Sequence[str],
    feed: Mapping[str, Array],
) -> list[Any]:
    try:
        return list(runner.run(outputs, {n: feed[n] for n in inputs}))
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise DataError(f"onnxruntime cannot run the samples: {told}") from error


class Keeper:
    """Moves arrays to a temporary file once too many bytes are live."""

    def __init__(self) -> None:
        self.used = 0

    def keep(self, arrays: Sequence[Any]) -> list[Array]:
        """Return the arrays of a feed, mapped from a file where they would not fit."""
        held: list[Array] = []
        for array in arrays:
            if isinstance(array, list) and all(isinstance(a, np.ndarray) for a in array):
                held.append(array)  # type: ignore[arg-type]  # a sequence: few, and short-lived
                continue
            if not isinstance(array, np.ndarray):
                raise DataError("a value between two layers is no tensor; this cannot be cut")
            self.used += array.nbytes
            if self.used > MEMORY and array.nbytes > 1 << 16 and array.dtype != object:
                with tempfile.TemporaryFile(prefix="onnxprune-") as file:
                    array.tofile(file)
                    file.flush()
                    mapped = np.memmap(file, array.dtype, "r", shape=array.shape)
                array = np.asarray(mapped)
            held.append(array)
        return held


def _type(array: Array | list[Array]) -> int:
    """Element type; negative for a sequence of tensors."""
    if isinstance(array, list):
        return -(_type(array[0]) if array else int(onnx.TensorProto.FLOAT))
    return (
        int(helper.np_dtype_to_tensor_dtype(array.dtype))
        if array.dtype != object
        else int(onnx.TensorProto.STRING)
    )


def _info(name: str, kind: int) -> onnx.ValueInfoProto:
    if kind < 0:
        return helper.make_tensor_sequence_value_info(name, -kind, None)
    return helper.make_tensor_value_info(name, kind, None)


def tensor_of(array: Array, like: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """Return ``array`` as protobuf of the element type of ``like``."""
    values = np.ascontiguousarray(array).astype(like.dtype.numpy(), copy=False)
    tensor = ir.tensor(values, dtype=like.dtype, name=name)
    proto: onnx.TensorProto = ir.to_proto(tensor)
    return proto
