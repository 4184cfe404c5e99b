"""The weights of a quantised model as numbers, found without the code under test."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

# Operator -> (weight, zero point, axis of the weight that zero points run along), by input.
INTEGER = {
    "QLinearConv": [(3, 5, 0)],
    "ConvInteger": [(1, 3, 0)],
    "QLinearMatMul": [(3, 5, -1)],
    "MatMulInteger": [(1, 3, -1)],
    "QGemm": [(3, 5, None)],
    "DynamicQuantizeLSTM": [(1, 9, -1), (2, 11, -1)],
}
DECODED = ("DequantizeLinear", "QuantizeLinear")
FLOAT = {"Conv": [1], "Gemm": [1], "MatMul": [0, 1], "LSTM": [1, 2]}


def plain_session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def read_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return, by the name of the stored tensor, a number for every weight that a node multiplies.

    Zero exactly where the operator's arithmetic sees zero; for integers without a scale at the
    node the integers minus their zero point.
    """
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {o: n for n in model.graph.node for o in n.output}
    found: dict[str, np.ndarray] = {}
    wanted: dict[str, str] = {}
    for node in model.graph.node:
        for weight, zero, axis in INTEGER.get(node.op_type, []):
            if node.input[weight] in held:
                array = held[node.input[weight]].astype(np.int64)
                point = held[node.input[zero]].astype(np.int64)
                if node.op_type == "QGemm":
                    turned = any(a.name == "transB" and a.i for a in node.attribute)
                    axis = 0 if turned else 1
                if point.size > 1 and node.op_type == "DynamicQuantizeLSTM":
                    point = point.reshape(point.shape[0], 1, -1)
                elif point.size > 1:
                    shape = [1] * array.ndim
                    shape[axis] = -1
                    point = point.reshape(shape)
                elif point.size == 1:
                    point = point.reshape(())
                found[node.input[weight]] = array - point
        for index in FLOAT.get(node.op_type, []):
            name = source = node.input[index]
            while source in makers and makers[source].op_type in (
                "DequantizeLinear",
                "QuantizeLinear",
            ):
                source = makers[source].input[0]
            if source in held and source == name:
                found[source] = held[source]
            elif source in held:
                wanted[name] = source
        if node.op_type == "MatMulNBits":
            found[node.input[1]] = _nbits(node, held)
    if wanted:
        found |= _computed(model, wanted)
    return found


def _computed(model: onnx.ModelProto, wanted: dict[str, str]) -> dict[str, np.ndarray]:
    """Let onnxruntime dequantise: the values become outputs of the model."""
    told = onnx.ModelProto.FromString(model.SerializeToString())
    keep, need = [], set(wanted)
    for node in reversed(told.graph.node):
        if need & set(node.output):
            keep.append(node)
            need |= set(node.input)
    del told.graph.output[:], told.graph.input[:]
    kept = list(reversed(keep))
    del told.graph.node[:]
    told.graph.node.extend(kept)
    for name in wanted:
        told.graph.output.append(helper.make_empty_tensor_value_info(name))
    values = plain_session(told).run(list(wanted), {})
    return {wanted[name]: value for name, value in zip(wanted, values, strict=True)}


def _nbits(node: onnx.NodeProto, held: dict[str, np.ndarray]) -> np.ndarray:
    """Multiply the identity by the weight: [N, K]."""
    depth = next(a.i for a in node.attribute if a.name == "K")
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    alone.input[0], alone.output[0] = "eye", "y"
    if len(alone.input) > 5:
        alone.input[5] = ""
    used = [numpy_helper.from_array(held[n], n) for n in node.input[1:5] if n]
    graph = helper.make_graph(
        [alone],
        "alone",
        [helper.make_tensor_value_info("eye", TensorProto.FLOAT, [depth, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        used,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    (product,) = plain_session(model).run(None, {"eye": np.eye(depth, dtype=np.float32)})
    return np.asarray(product).T
