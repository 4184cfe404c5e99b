"""cleanup: subgraphs and functions, stale shapes, nodes that do nothing."""

from __future__ import annotations

import numpy as np
import onnx
from graphs.net import Net
from onnx import TensorProto, helper, numpy_helper
from pass_checks import apply, same

from onnxprune.passes.cleanup import Cleanup


def idle() -> onnx.ModelProto:
    net = Net("idle")
    x = net.op("Identity", net.input(("n", 3, 8, 8)))
    x = net.op("Dropout", net.relu(net.conv(x, 3, 4, name="a")))
    net.head(net.op("Identity", x), 4)
    return net.model()


def test_identity_and_dropout_go_only_when_asked():
    before = idle()
    after, result = apply(Cleanup(), before)
    assert len(after.graph.node) == len(before.graph.node) and not result.stats["nodes"]
    after, result = apply(Cleanup(identity=True), before)
    same(before, after, {"n": 2})
    assert result.stats["nodes"] == 3
    assert not {"Identity", "Dropout"} & {n.op_type for n in after.graph.node}


def test_dropout_in_training_stays():
    before = idle()
    net = next(n for n in before.graph.node if n.op_type == "Dropout")
    net.input.extend(["", "train"])
    before.graph.initializer.append(numpy_helper.from_array(np.array(True), "train"))
    after, _ = apply(Cleanup(identity=True), before)
    assert "Dropout" in {n.op_type for n in after.graph.node}


def test_subgraphs_and_functions():
    branch = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"]), helper.make_node("Neg", ["x"], ["unused"])],
        "then",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32(v), n) for n, v in (("two", 2), ("orphan", 3))],
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["z"])],
        "else",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])],
    )
    function = helper.make_function(
        "mine",
        "twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Exp", ["a"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("If", ["flag"], ["i"], then_branch=branch, else_branch=other),
            helper.make_node("twice", ["i"], ["out"], domain="mine"),
        ],
        "main",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    before = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    after, result = apply(Cleanup(), before)
    same(before, after)
    assert result.stats == {"nodes": 2, "initializers": 1}
    assert [n.op_type for n in after.functions[0].node] == ["Add"]


def test_stale_shapes_are_inferred_anew_and_names_of_sizes_stay():
    before = idle()
    for value in before.graph.value_info:
        for dim in value.type.tensor_type.shape.dim[1:]:
            if dim.HasField("dim_value"):
                dim.dim_value += 1
    after, result = apply(Cleanup(), before)
    assert result.modified
    onnx.checker.check_model(after, full_check=True)
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in after.graph.value_info
    }
    conv = next(n.output[0] for n in after.graph.node if n.op_type == "Conv")
    assert shapes[conv] == ["n", 4, 8, 8]


def test_inputs_and_outputs_stay_however_useless():
    before = idle()
    before.graph.input.append(helper.make_tensor_value_info("spare", TensorProto.FLOAT, [1]))
    after, _ = apply(Cleanup(identity=True), before)
    same(before, after, {"n": 1})
    assert "spare" in {i.name for i in after.graph.input}
