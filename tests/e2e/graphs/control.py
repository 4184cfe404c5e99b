"""Subgraphs and functions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


@graph(shrinks="stem.w", keeps="mid.b", opset=13)
def if_captures_outer_value(net: Net) -> None:
    """If whose branches read an outer value and an outer weight."""
    x = net.conv(_stem(net), 8, 8, name="mid")
    flag = net.input((), "flag", TensorProto.BOOL)
    weight = net.weight(net.normal(4, 8, 1, 1), "inner.w")
    branches = []
    for kind in ("Relu", "Neg"):
        nodes = [
            helper.make_node(kind, [x], [f"{kind}_y"]),
            helper.make_node("Conv", [f"{kind}_y", weight], [f"{kind}_z"]),
        ]
        out = helper.make_tensor_value_info(f"{kind}_z", TensorProto.FLOAT, [1, 4, 8, 8])
        branches.append(helper.make_graph(nodes, f"{kind}_branch", [], [out]))
    net.output(net.op("If", flag, then_branch=branches[0], else_branch=branches[1]))


@graph(shrinks="stem.w", keeps="state.b", opset=13)
def loop_carries_features(net: Net) -> None:
    """Loop that applies a captured convolution to a carried feature map."""
    x = net.relu(net.conv(_stem(net), 8, 6, name="state"))
    weight = net.weight(net.normal(6, 6, 3, 3), "loop.w")
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["h", weight], ["g"], pads=[1, 1, 1, 1]),
            helper.make_node("Tanh", ["g"], ["h_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [1, 6, 8, 8]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [1, 6, 8, 8]),
        ],
    )
    trips, go = net.weight(np.array(3, np.int64)), net.weight(np.array(True))
    net.head(net.op("Loop", trips, go, x, body=body), 6)


@graph(shrinks="stem.w", opset=13)
def scan_over_rows(net: Net) -> None:
    """Scan whose scan input is the feature map transposed to rows."""
    x = net.op("Transpose", net.conv(_stem(net), 8, 6, name="mid"), perm=[2, 0, 1, 3])
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "row"], ["sum"]),
            helper.make_node("Identity", ["sum"], ["state_out"]),
            helper.make_node("Tanh", ["sum"], ["y"]),
        ],
        "rows",
        [
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [1, 6, 8]),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, [1, 6, 8]),
        ],
        [
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [1, 6, 8]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6, 8]),
        ],
    )
    zero = net.weight(np.zeros((1, 6, 8), np.float32))
    net.output(net.op("Scan", zero, x, outs=2, body=body, num_scan_inputs=1)[1])


@graph(shrinks="stem.w", opset=17)
def local_function(net: Net) -> None:
    """A function of the model's own: x * sigmoid(x)."""
    net.domains["local"] = 1
    net.functions.append(
        helper.make_function(
            "local",
            "Swish",
            ["a"],
            ["b"],
            [
                helper.make_node("Sigmoid", ["a"], ["s"]),
                helper.make_node("Mul", ["a", "s"], ["b"]),
            ],
            [helper.make_opsetid("", 17)],
        )
    )
    x = net.conv(_stem(net), 8, 6, name="mid")
    x = net.op("Swish", x, domain="local")
    net.output(net.conv(x, 6, 4, name="tail"), (1, 4, 8, 8))
