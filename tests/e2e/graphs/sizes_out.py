"""Sizes that leave the graph as numbers."""

from __future__ import annotations

from onnx import TensorProto, helper

from .net import Net
from .register import graph


@graph(shrinks="stem.w", keeps="mid.b", opset=17)
def shape_is_an_output(net: Net) -> None:
    """The Shape of a feature map is an output: what it tells must stay true."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    x = net.conv(x, 8, 6, name="mid")
    net.output(net.op("Shape", x), (4,), TensorProto.INT64)
    net.head(net.relu(x), 6)


@graph(shrinks="stem.w", keeps="mid.b", opset=17)
def shape_leaves_a_branch(net: Net) -> None:
    """A branch returns the size of an outer feature map."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    x = net.conv(x, 8, 6, name="mid")
    flag = net.input((), "flag", TensorProto.BOOL)
    branches = [
        helper.make_graph(
            [helper.make_node("Shape", [x], [f"{side}.s"], **more)],
            side,
            [],
            [helper.make_tensor_value_info(f"{side}.s", TensorProto.INT64, [2])],
        )
        for side, more in (("a", {"start": 0, "end": 2}), ("b", {"start": 1, "end": 3}))
    ]
    sizes = net.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    net.output(sizes, (2,), TensorProto.INT64)
    net.head(net.relu(x), 6)
