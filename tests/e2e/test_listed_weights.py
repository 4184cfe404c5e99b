"""Weights among the graph's inputs: a habit of exporters, or an intention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.passes.base import Context
from onnxprune.passes.emit import Emit


def network(listed: int, ir_version: int) -> onnx.ModelProto:
    """Three matrices in a row, the first ``listed`` of them among the inputs."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((16, 16)).astype(np.float32), f"w{i}")
        for i in range(3)
    ]
    info: Any = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(3)]
    inputs = [info("x0", TensorProto.FLOAT, [2, 16])]
    inputs += [info(f"w{i}", TensorProto.FLOAT, [16, 16]) for i in range(listed)]
    outputs = [info("x3", TensorProto.FLOAT, [2, 16])]
    graph = helper.make_graph(nodes, "listed", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)])
    model.ir_version = ir_version
    return model


@pytest.mark.parametrize(("listed", "left"), [(3, []), (2, []), (1, ["w0"])])
def test_pruned_files_list_weights_only_where_it_is_meant(listed: int, left: list[str]) -> None:
    model = network(listed, 4)
    pruned = onnxprune.prune(model, pattern="element", sparsity=0.5).model
    onnx.checker.check_model(pruned, full_check=True)
    assert [v.name for v in pruned.graph.input] == ["x0", *left]


def test_weights_that_were_listed_are_packed() -> None:
    model = network(3, 4)
    pruned = onnxprune.prune(model, pattern="element", sparsity=0.9).model
    loaded = io.load(pruned)
    result = Emit("auto").run(loaded.model, Context())
    assert {t["format"] for t in result.stats["tensors"]} != {"dense"}
    onnx.checker.check_model(io.to_proto(result.model))
    again = Emit("dense").run(io.load(io.to_proto(result.model)).model, Context()).model
    held = {t.name: numpy_helper.to_array(t) for t in io.to_proto(again).graph.initializer}
    held |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in io.to_proto(again).graph.node
        if node.op_type == "Constant"
    }
    for tensor in pruned.graph.initializer:
        assert np.array_equal(held[tensor.name], numpy_helper.to_array(tensor))
