"""Subgraphs and functions."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


@graph(shrinks="stem.w mid.b inner.w", opset=13)
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


@graph(shrinks="stem.w state.b loop.w", opset=13)
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


def _value(name: str, *dims: int | str, kind: int = TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def _bare(name: str, kind: int = TensorProto.FLOAT):
    """A value of unknown rank."""
    return helper.make_tensor_value_info(name, kind, None)


@graph(shrinks="stem.w mid.b then.w else.w tail.w", opset=17)
def if_branches_with_weights_of_their_own(net: Net) -> None:
    """If whose branches hold their weights and call different things by the same names."""
    x = net.conv(_stem(net), 8, 8, name="mid")
    flag = net.input((), "flag", TensorProto.BOOL)
    branches = []
    for kind, width in (("then", 6), ("else", 6)):
        held = [
            numpy_helper.from_array(net.normal(width, 8, 3, 3), f"{kind}.w"),
            numpy_helper.from_array(net.uniform(-1, 1, width), "b"),
        ]
        nodes = [
            helper.make_node("Conv", [x, f"{kind}.w", "b"], ["y"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu" if kind == "then" else "Tanh", ["y"], ["z"]),
        ]
        branches.append(helper.make_graph(nodes, kind, [], [_value("z", 1, width, 8, 8)], held))
    y = net.op("If", flag, then_branch=branches[0], else_branch=branches[1])
    net.output(net.conv(y, 6, 4, name="tail"), (1, 4, 8, 8))


@graph(shrinks="stem.w mid.w mid.b loop.w", opset=17)
def loop_of_unknown_shapes_in_an_if(net: Net) -> None:
    """A Loop inside a branch, its carried value declared without a shape as torch writes it."""
    x = net.conv(_stem(net), 8, 6, name="mid")
    flag = net.input((), "flag", TensorProto.BOOL)
    net.weight(net.normal(6, 6, 1, 1), "loop.w")
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["h", "loop.w"], ["g"]),
            helper.make_node("Add", ["g", x], ["s"]),
            helper.make_node("Tanh", ["s"], ["h_out"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [_value("i", kind=TensorProto.INT64), _value("go", kind=TensorProto.BOOL), _bare("h")],
        [_bare("go_out", TensorProto.BOOL), _bare("h_out")],
    )
    net.weight(np.array(3, np.int64), "trips")
    net.weight(np.array(True), "yes")
    loop = helper.make_node("Loop", ["trips", "yes", x], ["looped"], body=body)
    yes = helper.make_graph([loop], "yes", [], [_bare("looped")])
    neg = helper.make_graph([helper.make_node("Neg", [x], ["neg"])], "no", [], [_bare("neg")])
    y = net.op("If", flag, then_branch=yes, else_branch=neg)
    net.head(net.relu(y), 6)


@graph(shrinks="stem.w mid.w mid.b", opset=17)
def loop_that_lists_what_it_makes(net: Net) -> None:
    """A Loop's results get an axis in front, and the sum over them goes on."""
    x = net.conv(_stem(net), 8, 6, name="mid")
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["h", "half"], ["h_out"]),
            helper.make_node("Relu", ["h_out"], ["each"]),
            helper.make_node("Identity", ["go"], ["go_out"]),
        ],
        "body",
        [
            _value("i", kind=TensorProto.INT64),
            _value("go", kind=TensorProto.BOOL),
            _value("h", 1, 6, 8, 8),
        ],
        [
            _value("go_out", kind=TensorProto.BOOL),
            _value("h_out", 1, 6, 8, 8),
            _value("each", 1, 6, 8, 8),
        ],
    )
    net.weight(np.array(0.5, np.float32), "half")
    trips, go = net.weight(np.array(3, np.int64)), net.weight(np.array(True))
    _, listed = net.op("Loop", trips, go, x, outs=2, body=body)
    y = net.op("ReduceMax", listed, axes=[0], keepdims=0)
    net.head(net.conv(y, 6, 6, name="after"), 6)


@graph(shrinks="stem.w", keeps="mid.b", opset=17)
def if_on_a_pruned_size(net: Net) -> None:
    """A size that decides a branch: what it is the size of stays."""
    x = net.conv(_stem(net), 8, 6, name="mid")
    y = net.op("NonZero", net.relu(x))  # nothing that could be folded
    count = net.op("Gather", net.op("Shape", y), net.weight(np.array(1, np.int64)))
    limit = net.op("Gather", net.op("Shape", x), net.weight(np.array(1, np.int64)))
    flag = net.op("Less", count, limit)
    branches = [
        helper.make_graph([helper.make_node(op, [x], [op])], op, [], [_value(op, 1, 6, 8, 8)])
        for op in ("Neg", "Abs")
    ]
    net.head(net.op("If", flag, then_branch=branches[0], else_branch=branches[1]), 6)


@graph(shrinks="stem.w mid.w mid.b tail.w", opset=17)
def if_of_a_known_condition(net: Net) -> None:
    """What torch makes of squeeze(): an If on a known size, one branch of which cannot run."""
    x = net.op("GlobalAveragePool", net.conv(_stem(net), 8, 6, name="mid"))
    size = net.op("Gather", net.op("Shape", x), net.weight(np.array(2, np.int64)))
    flag = net.op("Equal", size, net.weight(np.array(1, np.int64)))
    net.ints(2, name="axes")
    yes = helper.make_graph(
        [helper.make_node("Squeeze", [x, "axes"], ["sq"])], "yes", [], [_bare("sq")]
    )
    no = helper.make_graph([helper.make_node("Identity", [x], ["id"])], "no", [], [_bare("id")])
    y = net.op("If", flag, then_branch=yes, else_branch=no)
    y = net.op("Flatten", y)
    net.output(net.gemm(y, 6, 4, name="tail", transB=1), (1, 4))


@graph(shrinks="stem.w mid.w tail.w inner.w", opset=17)
def local_functions_in_each_other(net: Net) -> None:
    """Functions with an attribute, a constant, a call of another, and a weight as operand."""
    net.domains["local"] = 1
    alpha = helper.make_node("LeakyRelu", ["a"], ["l"])
    reference = helper.make_attribute("alpha", 0.0)
    reference.ClearField("f")
    reference.ref_attr_name = "slope"
    reference.type = 1
    alpha.attribute.append(reference)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    net.functions.append(
        helper.make_function("local", "Act", ["a"], ["l"], [alpha], imports, ["slope"])
    )
    two = numpy_helper.from_array(np.array(2.0, np.float32), "two")
    net.functions.append(
        helper.make_function(
            "local",
            "Block",
            ["x", "w"],
            ["z"],
            [
                helper.make_node("Conv", ["x", "w"], ["y"]),
                helper.make_node("Act", ["y"], ["l"], domain="local", slope=0.3),
                helper.make_node("Constant", [], ["c"], value=two),
                helper.make_node("Mul", ["l", "c"], ["z"]),
            ],
            imports,
        )
    )
    x = net.conv(_stem(net), 8, 6, name="mid")
    x = net.op("Block", x, net.weight(net.normal(6, 6, 1, 1), "inner.w"), domain="local")
    x = net.op("Act", x, domain="local", slope=0.1)
    net.output(net.conv(x, 6, 4, name="tail"), (1, 4, 8, 8))


@graph(shrinks="stem.w", keeps="mid.b", strict=False, opset=17)
def function_of_another_opset(net: Net) -> None:
    """A function written for an older operator set than the model: left alone."""
    net.domains["local"] = 1
    node = helper.make_node("Tanh", ["a"], ["b"])  # the same in both, as the checker demands
    net.functions.append(
        helper.make_function("local", "Bend", ["a"], ["b"], [node], [helper.make_opsetid("", 13)])
    )
    x = net.op("Bend", net.conv(_stem(net), 8, 6, name="mid"), domain="local")
    net.output(net.conv(x, 6, 4, name="tail"), (1, 4, 8, 8))
