"""What a network computes exactly: evaluated in double precision throughout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


def double(graph: onnx.GraphProto) -> None:
    """Turn everything that is float32 in a graph and its bodies into float64, in place."""
    single, twice = onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                double(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == single:
                attribute.i = twice
    for tensor in tensors:
        if tensor.data_type == single:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.type.tensor_type.elem_type == single:
            info.type.tensor_type.elem_type = twice


def exact_outputs(model: onnx.ModelProto, feed: Mapping[str, Array]) -> list[Array]:
    """All outputs of the network evaluated in double precision, by onnx's own evaluator."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    double(wide.graph)
    inputs = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feed.items()}
    with np.errstate(over="ignore"):  # its sigmoid
        outputs: list[Array] = ReferenceEvaluator(wide).run(None, inputs)
    return outputs
