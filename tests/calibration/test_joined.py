"""Single samples become batches where the model computes the same, and only there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from onnxprune.calibration.joined import join_feeds


def model_of(nodes, shape, out):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(proto)


def feeds_of(count, *sizes):
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, *sizes)).astype(np.float32)} for _ in range(count)]


def test_samples_are_joined_in_order():
    model = model_of([helper.make_node("Softmax", ["x"], ["y"])], ["n", 5], ["n", 5])
    feeds = feeds_of(100, 5)
    joined = join_feeds(model, feeds, 8, 12)
    assert [len(f["x"]) for f in joined] == [8] * 12 + [4]
    np.testing.assert_array_equal(
        np.concatenate([f["x"] for f in joined]), np.concatenate([f["x"] for f in feeds])
    )
    assert max(len(f["x"]) for f in join_feeds(model, feeds[:24], 8, 12)) == 2


def test_an_open_axis_of_time_is_left_alone():
    # Attention of rows to rows: two feeds as one are another computation.
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["a"]),
        helper.make_node("Softmax", ["a"], ["s"]),
        helper.make_node("MatMul", ["s", "x"], ["y"]),
    ]
    feeds = feeds_of(50, 5)
    assert join_feeds(model_of(nodes, ["t", 5], ["t", 5]), feeds, 8, 12) == feeds


def test_fixed_batches_and_other_sizes():
    node = [helper.make_node("Relu", ["x"], ["y"])]
    feeds = feeds_of(50, 5)
    assert join_feeds(model_of(node, [1, 5], [1, 5]), feeds, 8, 12) == feeds
    mixed = [*feeds_of(30, 4), *feeds_of(30, 6)]
    joined = join_feeds(model_of(node, ["n", "m"], ["n", "m"]), mixed, 5, 12)
    assert {f["x"].shape for f in joined} == {(5, 4), (5, 6)}
