"""Run one node of a model by itself, and ask its rule how its axes go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from onnxprune.rules.analysis import FLOATS, Analyzer
from onnxprune.rules.shapes import infer_shapes

Array = np.ndarray[Any, Any]
Shapes = tuple[tuple[int, ...] | None, ...]


def widened(array: Array) -> Array:
    """Return half-precision arrays in float32, everything else as it is."""
    narrow = array.dtype == np.float16 or array.dtype.name == "bfloat16"
    return array.astype(np.float32) if narrow else array


Run = Callable[[None, dict[str, Array]], list[Any]]


class Bench:
    """Evaluates single nodes on arrays, and remembers what it built for the next one like it.

    onnxruntime computes; where it has no kernel, onnx's reference does. Half precision is computed
    in float32. Nodes must not have subgraphs.
    """

    def __init__(self, imports: Mapping[str, int]) -> None:
        self._imports = dict(imports)
        self._runs: dict[bytes, list[Run]] = {}
        self._axes: dict[tuple[bytes, Shapes], LocalAxes | None] = {}

    def run(self, node: ir.Node, inputs: Sequence[Array | None]) -> list[Array] | None:
        """Return the outputs, None if nothing at hand can compute them."""
        arrays = [None if a is None else widened(np.asarray(a)) for a in inputs]
        while arrays and arrays[-1] is None:
            arrays.pop()
        model = _model(node, arrays, self._imports)
        key = model.SerializeToString(deterministic=True)
        if key not in self._runs:
            made = (_session(key), _reference(model))
            self._runs[key] = [run for run in made if run is not None]
        feeds = {f"x{i}": np.asarray(a, order="C") for i, a in enumerate(arrays) if a is not None}
        for run in list(self._runs[key]):
            try:
                return [np.asarray(y) for y in run(None, feeds)]
            except Exception:  # sizes it does not take, or no kernel after all; the next one may
                if len(self._runs[key]) > 1:
                    continue
        return None

    def axes(self, analyzer: Analyzer, node: ir.Node, shapes: Shapes) -> LocalAxes | None:
        """Return :func:`local_axes`, remembered."""
        known = [None if v is None or v.dtype in FLOATS else analyzer.known(v) for v in node.inputs]
        key = (_proto(node, known).SerializeToString(deterministic=True), shapes)
        for array in known:
            key = (key[0] + (b"|" if array is None else array.tobytes() + b"|"), shapes)
        if key not in self._axes:
            self._axes[key] = local_axes(analyzer, node, shapes)
        return self._axes[key]


def _proto(node: ir.Node, given: Sequence[Any]) -> onnx.NodeProto:
    """Return the node under neutral names."""
    proto = ir.to_proto(node)
    del proto.metadata_props[:]
    proto.name, proto.doc_string = "one", ""
    proto.input[:] = ["" if a is None else f"x{i}" for i, a in enumerate(given)]
    proto.output[:] = [f"y{i}" if v.name else "" for i, v in enumerate(node.outputs)]
    return proto


def _model(
    node: ir.Node, arrays: Sequence[Array | None], imports: Mapping[str, int]
) -> onnx.ModelProto:
    proto = _proto(node, arrays)
    declared = [
        onnx.helper.make_tensor_value_info(
            f"x{i}", onnx.helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim
        )
        for i, a in enumerate(arrays)
        if a is not None
    ]
    outputs = [onnx.helper.make_empty_tensor_value_info(n) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "one", declared, outputs)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in imports.items()]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model


def _session(model: bytes) -> Run | None:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        run: Run = ort.InferenceSession(model, options, ["CPUExecutionProvider"]).run
        return run
    except Exception:
        return None


def _reference(model: onnx.ModelProto) -> Run | None:
    try:
        run: Run = ReferenceEvaluator(model).run
        return run
    except Exception:
        return None


@dataclass(frozen=True)
class LocalAxes:
    """What the rule of one node says about its own axes, for given input shapes.

    Attributes:
        passing: (input, input axis) -> output axis, for axes along which coordinate j of output 0
            depends on coordinate j of the input only, whatever the other coordinates hold.
        touched: (input, input axis) -> output axes that share a unit with it, however tied.
    """

    passing: dict[tuple[int, int], int]
    touched: dict[tuple[int, int], frozenset[int]]

    @cached_property
    def sources(self) -> dict[int, list[tuple[int, int]]]:
        """Output axis -> the input axes that touch it."""
        out: dict[int, list[tuple[int, int]]] = {}
        for source, axes in self.touched.items():
            for axis in axes:
                out.setdefault(axis, []).append(source)
        return out


def local_axes(analyzer: Analyzer, node: ir.Node, shapes: Shapes) -> LocalAxes | None:
    """Apply the rule of ``node`` to inputs of ``shapes`` and nothing else.

    Returns:
        None where the rule gives up or output 0 cannot be inferred.
    """
    inputs: list[ir.Value | None] = []
    constants: list[ir.Value] = []
    for index, (value, shape) in enumerate(zip(node.inputs, shapes, strict=True)):
        if value is None or shape is None:
            inputs.append(None)
            continue
        dtype = value.dtype or ir.DataType.FLOAT
        own = ir.Value(name=f"x{index}", shape=ir.Shape(shape), type=ir.TensorType(dtype))
        known = None if dtype in FLOATS else analyzer.known(value)
        if known is not None:
            own.const_value = ir.tensor(np.asarray(known, dtype.numpy()), name=own.name)
            constants.append(own)
        inputs.append(own)
    outputs = [ir.Value(name=f"y{i}", type=v.type) for i, v in enumerate(node.outputs)]
    twin = ir.Node(
        node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name="one"
    )
    open_inputs = [v for v in inputs if v is not None and v not in constants]
    graph = ir.Graph(
        open_inputs,
        outputs,
        nodes=[twin],
        initializers=constants,
        opset_imports=dict(analyzer.graph.opset_imports),
        name="one",
    )
    model = ir.Model(graph, ir_version=8)
    infer_shapes(model)
    found = Analyzer(model, freeze_interface=False)
    if twin in found.unknown or outputs[0].shape is None:
        return None
    labels = found.partition.labels
    frozen = found.partition.frozen
    made = [found.ids(outputs[0], b, None) for b in range(len(outputs[0].shape))]
    near = np.zeros((len(made), found.partition.count), np.bool_)
    for b, out in enumerate(made):
        if out is not None:
            near[b, labels[out]] = True
    passing: dict[tuple[int, int], int] = {}
    touched: dict[tuple[int, int], frozenset[int]] = {}
    for index, value in enumerate(inputs):
        if value is None or value.shape is None:
            continue
        for axis in range(len(value.shape)):
            ids = found.ids(value, axis, (twin, index))
            if ids is None:
                continue
            mine = labels[ids]
            close = [int(b) for b in np.flatnonzero(near[:, mine].any(axis=1))]
            touched[index, axis] = frozenset(close)
            if frozen[mine].any() or len(np.unique(mine)) != len(mine):
                continue
            for b in close:
                if np.array_equal(mine, labels[made[b]]):
                    passing[index, axis] = b
    return LocalAxes(passing, touched)
