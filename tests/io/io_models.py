"""Small models for the tests of this folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h


def gemm_relu(**parts: Any) -> onnx.ModelProto:
    """Return y = relu(x w), x [batch, 3], w [3, 2]; ``parts`` are added to the graph."""
    weight = h.make_tensor("w", T.FLOAT, [3, 2], np.arange(6, dtype=np.float32))
    graph = h.make_graph(
        [h.make_node("MatMul", ["x", "w"], ["m"], name="mm"), h.make_node("Relu", ["m"], ["y"])],
        "g",
        [h.make_tensor_value_info("x", T.FLOAT, ["batch", 3])],
        [h.make_tensor_value_info("y", T.FLOAT, ["batch", 2])],
        [weight],
        **parts,
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)


def layers(widths: Sequence[int], seed: int = 0) -> onnx.ModelProto:
    """Return a chain of MatMul layers of the given widths with N(0, 1) float32 weights."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    for i, shape in enumerate(itertools.pairwise(widths)):
        values = rng.standard_normal(shape).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(values, f"w{i}"))
        nodes.append(h.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"mm{i}"))
    last = len(weights)
    graph = h.make_graph(
        nodes,
        "layers",
        [h.make_tensor_value_info("h0", T.FLOAT, ["n", widths[0]])],
        [h.make_tensor_value_info(f"h{last}", T.FLOAT, ["n", widths[-1]])],
        weights,
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=10)


def sparse_tensor(
    array: np.ndarray[Any, Any], name: str = "", linear: bool = True
) -> onnx.SparseTensorProto:
    """Return ``array`` as an ONNX sparse tensor, with linear or coordinate indices."""
    places = np.flatnonzero(array) if linear else np.argwhere(array)
    values = onnx.numpy_helper.from_array(array[array != 0], name)
    return h.make_sparse_tensor(
        values, onnx.numpy_helper.from_array(places.astype(np.int64)), list(array.shape)
    )
