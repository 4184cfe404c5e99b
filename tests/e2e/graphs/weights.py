"""Where weights may hide: tied, shared, overridable, behind other nodes, in Constant nodes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .net import Net
from .register import graph


@graph(shrinks="stem.w tied.w head.w")
def tied_conv_twice(net: Net) -> None:
    """The same Conv weight in two nodes in a row: its output and input channels are one unit."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    weight = net.weight(net.normal(8, 8, 3, 3), "tied.w")
    for _ in range(2):
        x = net.relu(net.op("Conv", x, weight, pads=[1, 1, 1, 1]))
    net.head(x, 8)


@graph(shrinks="stem.w tied.w head.w")
def tied_parallel_branches(net: Net) -> None:
    """A siamese net: the same weights on two inputs, outputs compared."""
    weights = [
        net.weight(net.normal(8, 3, 3, 3), "stem.w"),
        net.weight(net.normal(12, 8, 3, 3), "tied.w"),
    ]
    ends = []
    for name in ("left", "right"):
        x = net.input((1, 3, 8, 8), name)
        for weight in weights:
            x = net.relu(net.op("Conv", x, weight, pads=[1, 1, 1, 1]))
        ends.append(net.op("GlobalAveragePool", x))
    x = net.op("Flatten", net.op("Sub", *ends))
    net.output(net.gemm(x, 12, 5, name="head"))


@graph(shrinks="a.w b.w shared_bias")
def shared_bias_couples_two_streams(net: Net) -> None:
    """One bias vector in two Convs of otherwise independent streams."""
    x = net.input((1, 3, 8, 8))
    bias = net.weight(net.uniform(-0.5, 0.5, 8), "shared_bias")
    ends = []
    for name in ("a", "b"):
        weight = net.weight(net.normal(8, 3, 3, 3), f"{name}.w")
        y = net.relu(net.op("Conv", x, weight, bias, pads=[1, 1, 1, 1]))
        ends.append(net.conv(y, 8, 4, name=f"{name}2"))
    net.output(net.op("Mul", *ends))


@graph(shrinks="a.w", keeps="b.w mixer")
def shared_vector_of_a_free_and_a_held_stream(net: Net) -> None:
    """One 1x1 filter reads a stream that shrinks and one that an output holds whole."""
    x = net.input((1, 3, 8, 8))
    mixer = net.weight(net.normal(1, 8, 1, 1), "mixer")
    free = net.relu(net.conv(x, 3, 8, name="a"))
    held = net.conv(x, 3, 8, name="b")
    net.output(net.op("Conv", free, mixer), (1, 1, 8, 8))
    net.output(held, (1, 8, 8, 8))
    net.output(net.op("Conv", held, mixer), (1, 1, 8, 8))


@graph(shrinks="fc.w fc2.w")
def tied_embedding_transposed(net: Net) -> None:
    """Embedding table reused, transposed, as output matrix: the width is one unit."""
    ids = net.input((1, 6), "ids", TensorProto.INT64)
    table = net.weight(net.normal(20, 16, fan_in=16), "emb")
    x = net.op("Gather", table, ids, axis=0)
    hidden = net.op("MatMul", x, net.weight(net.normal(16, 24, fan_in=16), "fc.w"))
    x = net.op("MatMul", net.relu(hidden), net.weight(net.normal(24, 16, fan_in=24), "fc2.w"))
    net.output(net.op("MatMul", x, net.op("Transpose", table, perm=[1, 0])))


@graph(keeps="stem.w stem.b", ir_version=8)
def initializer_is_graph_input(net: Net) -> None:
    """The stem's weight may be overridden by a caller, so its shape is part of the interface."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.input((8, 3, 3, 3), "stem.w")
    net.input((8,), "stem.b")
    net.head(net.relu(net.conv(x, 8, 12, name="mid")), 12)


@graph(ir_version=3, opset=9)
def all_initializers_are_inputs(net: Net) -> None:
    """IR version 3: every initializer has to be listed as an input."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.head(net.relu(net.conv(x, 8, 12, name="mid")), 12)
    for name, array in net.weights.items():
        net.input(array.shape, name, helper.np_dtype_to_tensor_dtype(array.dtype))


@graph(shrinks="stem.w mid.w fc", ir_version=3, opset=7)
def opset_without_integer_constants(net: Net) -> None:
    """As CNTK wrote it: new sizes of the Reshapes can be no Constant nodes before opset 9."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    x = net.op("MaxPool", net.relu(net.conv(x, 8, 12, name="mid")), kernel_shape=[8, 8])
    raw = net.op("Reshape", net.weight(net.normal(12, 1, 1, 5), "fc"), net.ints(12, 5))
    net.output(net.op("MatMul", net.op("Reshape", x, net.ints(1, 12)), raw))
    for name, array in net.weights.items():
        net.input(array.shape, name, helper.np_dtype_to_tensor_dtype(array.dtype))


@graph(keeps="stem.w mid.w")
def initializer_is_graph_output(net: Net) -> None:
    """A weight that the graph also returns."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.head(net.relu(net.conv(x, 8, 12, name="mid")), 12)
    net.output("mid.w", (12, 8, 3, 3))


@graph(shrinks="raw fc.b")
def weight_behind_transpose(net: Net) -> None:
    """MatMul weight stored [out, in] and transposed by a node."""
    x = net.op("GlobalAveragePool", net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    raw = net.weight(net.normal(12, 8), "raw")
    x = net.op("MatMul", net.op("Flatten", x), net.op("Transpose", raw, perm=[1, 0]))
    x = net.relu(net.op("Add", x, net.weight(net.uniform(-0.5, 0.5, 12), "fc.b")))
    net.output(net.gemm(x, 12, 5, name="head"))


@graph(shrinks="half")
def weight_behind_cast(net: Net) -> None:
    """fp16 storage, Cast to fp32 in the graph."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    raw = net.weight(net.normal(12, 8, 3, 3).astype(np.float16), "half")
    x = net.op("Conv", x, net.op("Cast", raw, to=TensorProto.FLOAT), pads=[1, 1, 1, 1])
    net.head(net.relu(x), 12)


@graph(shrinks="raw")
def weight_behind_identity(net: Net) -> None:
    """Identity chains between initializer and Conv, one of them shared with a second Conv."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    raw = net.weight(net.normal(8, 8, 3, 3), "raw")
    same = net.op("Identity", net.op("Identity", raw))
    x = net.relu(net.op("Conv", x, same, pads=[1, 1, 1, 1]))
    x = net.relu(net.op("Conv", x, net.op("Identity", same), pads=[1, 1, 1, 1]))
    net.head(x, 8)


@graph(shrinks="flat")
def weight_behind_reshape(net: Net) -> None:
    """Conv weight stored flat [out, in*k*k] and reshaped by a node."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    raw = net.weight(net.normal(12, 72), "flat")
    x = net.op("Conv", x, net.op("Reshape", raw, net.ints(12, 8, 3, 3)), pads=[1, 1, 1, 1])
    net.head(net.relu(x), 12)


@graph(shrinks="raw scale")
def weight_normalised_in_graph(net: Net) -> None:
    """Weight standardisation left in the graph: Conv weight = raw * scale, per output channel."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    raw = net.weight(net.normal(12, 8, 3, 3), "raw")
    scale = net.weight(net.signed(12, 1, 1, 1), "scale")
    x = net.op("Conv", x, net.op("Mul", raw, scale), pads=[1, 1, 1, 1])
    net.head(net.relu(x), 12)


@graph()
def weights_in_constant_nodes(net: Net) -> onnx.ModelProto:
    """No initializer at all: every weight is the value of a Constant node."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.head(net.relu(net.conv(x, 8, 12, name="mid")), 12)
    model = net.model()
    nodes = [
        helper.make_node("Constant", [], [t.name], name=f"const_{i}", value=t)
        for i, t in enumerate(model.graph.initializer)
    ]
    nodes += list(model.graph.node)
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@graph(shrinks="mid.w")
def constant_value_floats_and_ints(net: Net) -> None:
    """Bias by Constant value_floats, shape by value_ints, scale by value_float."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    bias = net.op("Constant", value_floats=[0.1 * i - 0.5 for i in range(12)])
    x = net.op("Conv", x, net.weight(net.normal(12, 8, 3, 3), "mid.w"), bias, pads=[1, 1, 1, 1])
    x = net.op("Mul", net.relu(x), net.op("Constant", value_float=0.5))
    x = net.op("Reshape", x, net.op("Constant", value_ints=[1, 12, 8, 8]))
    net.head(x, 12)


@graph(shrinks="stem.w", keeps="head.b")
def typed_field_weights(net: Net) -> onnx.ModelProto:
    """Weights in float_data instead of raw_data."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.head(x, 8)
    model = net.model()
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        typed = helper.make_tensor(
            tensor.name, tensor.data_type, tensor.dims, array.ravel().tolist()
        )
        tensor.CopyFrom(typed)
    return model


@graph(shrinks="stem.w mid.w")
def half_precision(net: Net) -> None:
    """A float16 network."""
    x = net.input((1, 3, 8, 8), dtype=TensorProto.FLOAT16)
    for name, cin, cout in (("stem", 3, 8), ("mid", 8, 12), ("tail", 12, 4)):
        weight = net.weight(net.normal(cout, cin, 3, 3).astype(np.float16), f"{name}.w")
        bias = net.weight(net.uniform(-0.5, 0.5, cout).astype(np.float16), f"{name}.b")
        x = net.relu(net.op("Conv", x, weight, bias, pads=[1, 1, 1, 1]))
    net.output(x, dtype=TensorProto.FLOAT16)


@graph()
def unused_initializer(net: Net) -> None:
    """An initializer nobody reads, and a dead branch."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))
    net.weight(net.normal(8, 8), "nobody")
    net.op("Sigmoid", net.conv(x, 8, 6, name="dead"))
    net.head(x, 8)
