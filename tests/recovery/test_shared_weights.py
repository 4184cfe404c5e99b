"""Weights that several nodes use are solved for all of these nodes' inputs together."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.operands import find_operand, find_shared
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.patterns import parse_pattern
from onnxprune.planning import find_layers
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.solve_layers import solve_layers
from onnxprune.rules.analysis import analyze

RNG = np.random.default_rng(5)
W = (RNG.standard_normal((16, 16)) * 0.3).astype(np.float32)
MIX = RNG.standard_normal((16, 16)).astype(np.float32)
FEEDS = [{"x": (RNG.standard_normal((40, 16)) @ MIX).astype(np.float32)} for _ in range(12)]


def network(turned: bool = False):
    """Three residual layers of one weight, which may be turned round by a node that they share."""
    nodes, value = [], "x"
    weight = "turned" if turned else "w"
    if turned:
        nodes.append(helper.make_node("Transpose", ["w"], ["turned"], perm=[1, 0]))
    for i in range(3):
        nodes += [
            helper.make_node("MatMul", [value, weight], [f"m{i}"], f"layer{i}"),
            helper.make_node("Tanh", [f"m{i}"], [f"t{i}"]),
            helper.make_node("Add", [value, f"t{i}"], [f"h{i}"]),
        ]
        value = f"h{i}"
    nodes.append(helper.make_node("MatMul", [value, "last"], ["y"], "end"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.ascontiguousarray(W.T) if turned else W, "w"),
            numpy_helper.from_array(MIX[:, :8].copy(), "last"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def analyzed(model):
    held = io.load(model).model
    InferShapes().run(held, Context())
    return analyze(held)


@pytest.mark.parametrize("turned", [False, True])
def test_they_are_the_least_squares_solution_over_all_inputs(turned):
    analyzer = analyzed(network(turned))
    layer = next(x for x in find_layers(analyzer) if x.value.name == "w")
    assert find_operand(analyzer, layer) == "the weight is used more than once"
    operands = find_shared(analyzer, layer)
    assert {o.layer.node.name for o in operands} == {"layer0", "layer1", "layer2"}
    kept = RNG.random(W.shape) < 0.5
    mask = np.ascontiguousarray(kept.T) if turned else kept
    work = Reconstruction(analyzer, FEEDS)
    found = solve_layers(work, {"w": mask}, parse_pattern("element"), method="given")
    array = found.weights["w"].T if turned else found.weights["w"]
    assert not array[~kept].any()
    rows, value = [], np.concatenate([feed["x"] for feed in work.training])
    for _ in range(3):
        rows.append(value)
        value = value + np.tanh(value @ W)
    inputs = np.concatenate(rows).astype(np.float64)
    gram, cross = inputs.T @ inputs, inputs.T @ inputs @ W
    for column in range(16):
        at = kept[:, column]
        want = np.linalg.solve(gram[np.ix_(at, at)], cross[at, column])
        np.testing.assert_allclose(array[at, column], want, rtol=0.02, atol=2e-3)


def test_recovery_gains_by_them(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(network().SerializeToString())
    data = {"x": np.concatenate([feed["x"] for feed in FEEDS])}
    found = [
        onnxprune.prune(
            path, "element", 0.5, data=data, recover="reconstruct", cache=tmp_path / "cache"
        )
        for _ in range(2)
    ]
    first, second = (done.report["recovery"] for done in found)
    losses = [step["loss"] for step in first["steps"]]
    assert losses[1] < 0.5 * losses[0]
    assert "w" not in str(first["layers"][0].get("why", ""))
    assert first["steps"] == second["steps"], "taken from the cache"
    assert io.to_bytes(found[0].loaded.model) == io.to_bytes(found[1].loaded.model)


def test_weights_that_are_used_in_several_ways_are_not_solved():
    model = network()
    model.graph.node.insert(
        len(model.graph.node) - 1, helper.make_node("MatMul", ["w", "last"], ["other"], "left")
    )
    model.graph.node[-1].output[0] = "y0"
    model.graph.node.append(helper.make_node("ReduceSum", ["other"], ["s"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["y0", "s"], ["y"]))
    analyzer = analyzed(model)
    layer = next(x for x in find_layers(analyzer) if x.value.name == "w")
    assert isinstance(find_shared(analyzer, layer), str)
