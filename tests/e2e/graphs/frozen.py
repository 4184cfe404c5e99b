"""What must freeze with a reason, and inputs that must give a clear answer."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


@graph(shrinks="stem.w c2.w")
def lstm_after_conv(net: Net) -> None:
    """CRNN: convolutions, columns as a sequence, a bidirectional LSTM."""
    x = net.relu(net.conv(_stem(net), 8, 6, name="c2"))
    x = net.op("ReduceMean", x, axes=[2], keepdims=0)
    x = net.op("Transpose", x, perm=[2, 0, 1])
    w = net.weight(net.normal(2, 20, 6, fan_in=6), "lstm.w")
    r = net.weight(net.normal(2, 20, 5, fan_in=5), "lstm.r")
    b = net.weight(net.uniform(-0.5, 0.5, 2, 40), "lstm.b")
    y, _ = net.op("LSTM", x, w, r, b, outs=2, hidden_size=5, direction="bidirectional")
    net.output(net.op("ReduceMean", y, axes=[0], keepdims=0))


@graph(shrinks="stem.w")
def gru_states(net: Net) -> None:
    """GRU whose initial state is a graph input."""
    x = net.op("Reshape", net.conv(_stem(net), 8, 6, name="c2"), net.ints(64, 1, 6))
    w = net.weight(net.normal(1, 15, 6, fan_in=6), "gru.w")
    r = net.weight(net.normal(1, 15, 5, fan_in=5), "gru.r")
    state = net.input((1, 1, 5), "h0")
    _, last = net.op("GRU", x, w, r, "", "", state, outs=2, hidden_size=5)
    net.output(last)


@graph(shrinks="stem.w", keeps="mid.b", runs=False)
def unknown_domain(net: Net) -> None:
    """An operator nobody knows: what touches it stays."""
    net.domains["example.custom"] = 1
    x = net.op("Mystery", net.conv(_stem(net), 8, 6, name="mid"), domain="example.custom")
    net.output(net.conv(x, 6, 4, name="tail"), (1, 4, 8, 8))


@graph(opset=17)
def contrib_fused_conv(net: Net) -> None:
    """com.microsoft FusedConv with Relu, as onnxruntime's optimizer writes it."""
    net.domains["com.microsoft"] = 1
    x = _stem(net)
    names = (
        net.weight(net.normal(12, 8, 3, 3), "fused.w"),
        net.weight(net.uniform(-1, 1, 12), "fused.b"),
    )
    x = net.op(
        "FusedConv",
        x,
        *names,
        domain="com.microsoft",
        activation="Relu",
        pads=[1, 1, 1, 1],
        kernel_shape=[3, 3],
    )
    net.output(net.conv(x, 12, 4, name="tail"), (1, 4, 8, 8))


@graph(shrinks="inner.w close.w", keeps="first.w first.b close.b")
def residual_touches_graph_output(net: Net) -> None:
    """The residual stream is itself an output: the whole group stays, inner widths go."""
    x = net.conv(net.input((1, 3, 8, 8)), 3, 8, name="first")
    y = net.relu(net.conv(x, 8, 12, name="inner"))
    net.output(net.op("Add", x, net.conv(y, 12, 8, name="close")))


@graph(shrinks="inner.w close.w", keeps="close.b")
def residual_touches_graph_input(net: Net) -> None:
    """The image itself is the residual stream."""
    x = net.input((1, 8, 8, 8))
    y = net.relu(net.conv(x, 8, 12, name="inner"))
    net.output(net.op("Add", x, net.conv(y, 12, 8, name="close")))


@graph(shrinks="stem.w", keeps="feature.b")
def inner_value_is_output_too(net: Net) -> None:
    """An inner feature map is also returned."""
    x = net.conv(_stem(net), 8, 6, name="feature")
    net.output(x)
    net.head(net.relu(net.conv(net.relu(x), 6, 8, name="last")), 8)


@graph(finite=False)
def nan_weights(net: Net) -> None:
    """A weight that is not a number: a clear error or a frozen layer, never a silent choice."""
    net.head(net.relu(net.conv(_stem(net), 8, 12, name="mid")), 12)
    net.weights["mid.w"][3, 2, 1, 1] = np.nan


@graph()
def zero_and_constant_channels(net: Net) -> None:
    """Channels whose incoming weights are all zero still emit act(bias)."""
    x = net.relu(net.bn(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"), 8, "bn"))
    net.head(net.relu(net.conv(x, 8, 12, 1, name="mid")), 12)
    net.weights["stem.w"][[1, 4, 6]] = 0
    net.weights["mid.w"][[0, 5]] = 0


@graph()
def qdq_weights(net: Net) -> None:
    """Weight behind DequantizeLinear, per output channel; activations in Q/DQ per tensor."""
    x = _stem(net)
    scale, zero = net.scalar(0.05), net.weight(np.array(128, np.uint8))
    x = net.op("DequantizeLinear", net.op("QuantizeLinear", x, scale, zero), scale, zero)
    raw = net.weight(net.rng.integers(-127, 128, (12, 8, 3, 3)).astype(np.int8), "q.w")
    steps = net.weight(net.uniform(1e-3, 4e-3, 12), "q.scale")
    zeros = net.weight(np.zeros(12, np.int8), "q.zero")
    weight = net.op("DequantizeLinear", raw, steps, zeros, axis=0)
    net.head(net.relu(net.op("Conv", x, weight, pads=[1, 1, 1, 1])), 12)


@graph(strict=False)
def sparse_initializer(net: Net) -> onnx.ModelProto:
    """A Conv weight stored as sparse_initializer, which strict shape inference does not know."""
    net.head(net.relu(net.conv(_stem(net), 8, 12, name="mid")), 12)
    net.weights["mid.w"][np.abs(net.weights["mid.w"]) < 0.2] = 0
    model = net.model()
    dense = next(t for t in model.graph.initializer if t.name == "mid.w")
    array = numpy_helper.to_array(dense).ravel()
    index = np.flatnonzero(array).astype(np.int64)
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(array[index], "mid.w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(index, "mid.w_index"))
    sparse.dims.extend([12, 8, 3, 3])
    model.graph.initializer.remove(dense)
    return model
