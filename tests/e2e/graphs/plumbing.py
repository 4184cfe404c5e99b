"""Names, several inputs and outputs, symbolic dims, metadata, opsets."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from .net import Net
from .register import graph


def _chain(net: Net, dims: tuple[int | str, ...] = (1, 3, 8, 8)) -> None:
    x = net.relu(net.conv(net.input(dims), 3, 8, name="stem"))
    net.head(net.relu(net.conv(x, 8, 12, name="mid")), 12)


@graph(shrinks="stem.w mid.w head.w")
def missing_node_names(net: Net) -> onnx.ModelProto:
    """No node has a name."""
    _chain(net)
    for node in net.nodes:
        node.name = ""
    return net.model()


@graph(shrinks="stem.w mid.w head.w", runs=False)
def duplicated_node_names(net: Net) -> onnx.ModelProto:
    """All nodes have the same name; onnxruntime refuses to load it as it is."""
    _chain(net)
    for node in net.nodes:
        node.name = "node"
    return net.model()


@graph(shrinks="stem.w mid.w head.w")
def node_named_like_a_weight(net: Net) -> onnx.ModelProto:
    """A node, a value and an initializer share one name."""
    _chain(net)
    net.nodes[0].name = "mid.w"
    net.nodes[2].name = net.nodes[0].output[0]
    return net.model()


@graph(shrinks="left.w right.w mid.w")
def two_inputs_two_outputs(net: Net) -> None:
    """Two images in; a class and a map out."""
    a = net.relu(net.conv(net.input((1, 3, 8, 8), "left_image"), 3, 8, name="left"))
    b = net.relu(net.conv(net.input((1, 1, 8, 8), "right_image"), 1, 8, name="right"))
    x = net.relu(net.conv(net.op("Add", a, b), 8, 12, name="mid"))
    net.output(net.conv(x, 12, 2, name="map"))
    net.head(x, 12)


@graph(shrinks="stem.w mid.w head.w", other={"N": 3, "H": 16, "W": 24})
def symbolic_dims(net: Net) -> None:
    """Named batch, height and width."""
    _chain(net, ("N", 3, "H", "W"))


@graph(shrinks="stem.w mid.w head.w", other={"N": 2})
def symbolic_dims_shared_with_output(net: Net) -> None:
    """The same symbol on input and output, and one that appears only on the output."""
    x = net.relu(net.conv(net.input(("N", 3, 8, 8)), 3, 8, name="stem"))
    x = net.relu(net.conv(x, 8, 12, name="mid"))
    net.head(x, 12)
    net.outputs[-1] = helper.make_tensor_value_info(net.outputs[-1].name, 1, ["N", "classes"])


@graph(shrinks="stem.w mid.w head.w")
def stale_value_info(net: Net) -> onnx.ModelProto:
    """value_info names the full channel counts and has to be purged."""
    _chain(net)
    model = net.model()
    extra = helper.make_tensor_value_info("nowhere", TensorProto.FLOAT, [1, 8, 8, 8])
    model.graph.value_info.append(extra)
    return model


@graph(shrinks="stem.w mid.w head.w")
def metadata_everywhere(net: Net) -> onnx.ModelProto:
    """metadata_props, doc strings and producer fields survive."""
    _chain(net)
    model = net.model()
    model.doc_string = "a model"
    model.graph.doc_string = "a graph"
    helper.set_model_props(model, {"author": "tests", "classes": "{0: 'cat'}"})
    for node in model.graph.node:
        node.doc_string = f"doc of {node.name}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "source", node.op_type
    for tensor in model.graph.initializer:
        tensor.doc_string = f"doc of {tensor.name}"
    return model


@graph(shrinks="stem.w mid.w head.w", opset=8, ir_version=4)
def opset8(net: Net) -> None:
    """An old opset with a newer IR version."""
    _chain(net)


@graph(shrinks="stem.w mid.w head.w", opset=23, ir_version=11)
def opset23(net: Net) -> None:
    """The newest opset the runtime of the tests is sure to load."""
    _chain(net)


@graph(shrinks="stem.w mid.w head.w", opset=13)
def ai_onnx_domain_spelled_out(net: Net) -> onnx.ModelProto:
    """The default domain imported as "ai.onnx"."""
    _chain(net)
    model = net.model()
    model.opset_import[0].domain = "ai.onnx"
    return model


@graph(shrinks="det1.w det2.w", opset=11)
def detector_tail(net: Net) -> None:
    """Two scales, box and class heads, DFL softmax with a fixed projection, concat of scales."""
    x = net.relu(net.conv(net.input((1, 3, 16, 16)), 3, 8, name="det1"))
    y = net.relu(net.conv(x, 8, 12, name="det2", strides=[2, 2]))
    ends = []
    for value, width, cells in ((x, 8, 256), (y, 12, 64)):
        hidden = net.relu(net.conv(value, width, 10))
        box = net.op("Reshape", net.conv(hidden, 10, 16, 1), net.ints(1, 4, 4, cells))
        box = net.op("Softmax", net.op("Transpose", box, perm=[0, 1, 3, 2]), axis=3)
        box = net.op("MatMul", box, net.weight(net.uniform(0, 3, 4, 1)))
        box = net.op("Squeeze", box, axes=[3])
        cls = net.op("Reshape", net.conv(hidden, 10, 3, 1), net.ints(1, 3, cells))
        ends.append(net.op("Concat", box, net.op("Sigmoid", cls), axis=1))
    net.output(net.op("Concat", *ends, axis=2))


@graph(shrinks="c1.w c2.w", opset=11)
def detector_with_nms(net: Net) -> None:
    """A detector whose boxes go through NonMaxSuppression inside the graph."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="c1"))
    x = net.relu(net.conv(x, 8, 12, name="c2"))
    boxes = net.op("Reshape", net.conv(x, 12, 4, 1), net.ints(1, 4, 64))
    boxes = net.op("Transpose", boxes, perm=[0, 2, 1])
    scores = net.op("Sigmoid", net.op("Reshape", net.conv(x, 12, 2, 1), net.ints(1, 2, 64)))
    limits = net.ints(5), net.weight(net.uniform(0.5, 0.5, 1)), net.weight(net.uniform(0.1, 0.1, 1))
    picked = net.op("NonMaxSuppression", boxes, scores, *limits)
    net.output(picked, ("picked", 3), TensorProto.INT64)
    net.output(boxes)
    net.output(scores)
