"""Small networks with dead units, for remove-dead."""

from __future__ import annotations

import numpy as np
import onnx
from graphs.net import Net
from onnx import numpy_helper


def chain(kernel: int = 3, pads: int = 0, bias: bool = True) -> onnx.ModelProto:
    """Conv (dead rows 1, 4, 6) - BN - ReLU - Conv; unit 4 emits zero, 1 and 6 emit 3."""
    net = Net("chain")
    x = net.relu(net.bn(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"), 8, "bn"))
    x = net.relu(net.conv(x, 8, 6, kernel, name="b", pads=[pads] * 4, bias=bias))
    net.head(x, 6)
    net.weights["a.w"][[1, 4, 6]] = 0
    net.weights["bn.bias"][4] = -5
    net.weights["bn.bias"][[1, 6]] = 3
    net.weights["bn.scale"][[1, 4, 6]] = 0.001
    return net.model()


def residual(
    dead: tuple[int, ...] = (2, 5), *, second: tuple[int, ...] | None = None
) -> onnx.ModelProto:
    """A stream made by two convolutions; a unit is dead where both make nothing."""
    net = Net("residual")
    x = net.conv(net.input(("n", 3, 6, 6)), 3, 8, 1, name="a")
    y = net.conv(net.relu(x), 8, 8, 1, name="b")
    x = net.op("Add", x, y)
    net.head(net.relu(net.conv(x, 8, 5, 1, name="c")), 5)
    net.weights["a.w"][list(dead)] = 0
    net.weights["b.w"][list(dead if second is None else second)] = 0
    return net.model()


def depthwise(pads: int, bias: float) -> onnx.ModelProto:
    """1x1 - depth-wise - 1x1 with units 0 and 3 dead from the start."""
    net = Net("depthwise")
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 6, 1, name="a"))
    x = net.op(
        "Clip",
        net.conv(x, 6, 6, group=6, name="d", pads=[pads] * 4),
        net.scalar(0.0),
        net.scalar(6.0),
    )
    net.head(net.relu(net.conv(x, 6, 4, 1, name="c")), 4)
    net.weights["a.w"][[0, 3]] = 0
    net.weights["a.b"][[0, 3]] = bias
    net.weights["d.b"][:] = 0.4
    return net.model()


def excite() -> onnx.ModelProto:
    """Squeeze and excite: the gate of a dead channel is not constant, the gated channel is zero."""
    net = Net("excite")
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="a"))
    s = net.op("GlobalAveragePool", x)
    s = net.relu(net.conv(s, 8, 4, 1, name="s1"))
    s = net.op("Sigmoid", net.conv(s, 4, 8, 1, name="s2"))
    net.head(net.conv(net.op("Mul", x, s), 8, 6, 3, name="c"), 6)
    net.weights["a.w"][[0, 7]] = 0
    net.weights["a.b"][[0, 7]] = -1
    net.weights["s1.w"][2] = 0  # a constant inside the gate
    net.weights["s1.b"][2] = 1.5
    return net.model()


def flatten(channels_last: bool) -> onnx.ModelProto:
    """Four pixels a channel reach the Gemm, each with its own weight."""
    net = Net("flatten")
    x = net.relu(net.conv(net.input((2, 3, 2, 2)), 3, 6, name="a"))
    if channels_last:
        x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    x = net.relu(net.gemm(net.op("Flatten", x), 24, 7, name="fc", alpha=0.5, beta=2.0))
    net.output(net.gemm(x, 7, 3, name="out"), (2, 3))
    net.weights["a.w"][[1, 2]] = 0
    net.weights["a.b"][[1, 2]] = [0.7, -0.7]
    return net.model()


def matmul(add: bool, *, left: bool = False) -> onnx.ModelProto:
    """A dense layer as MatMul, with or without an Add behind it, constant on either side."""
    net = Net("matmul")
    x = net.op("Transpose", net.input((5, 4))) if left else net.input(("n", 4))
    shape = (8, 1) if left else (8,)

    def product(x: str, k: int, n: int, name: str) -> str:
        w = net.weight(net.normal(n, k) if left else net.normal(n, k).T.copy(), f"{name}.w")
        return str(net.op("MatMul", *((w, x) if left else (x, w)), named=name))

    h = net.op("Add", product(x, 4, 8, "a"), net.weight(net.uniform(-0.5, 0.5, *shape), "a.b"))
    y = product(net.op("Tanh", h), 8, 3, "b")
    if add:
        size = (3, 1) if left else (3,)
        y = net.op("Add", net.weight(net.uniform(-1, 1, *size), "b.b"), y)
    net.output(y)
    rows = net.weights["a.w"] if left else net.weights["a.w"].T
    rows[[0, 3, 4]] = 0
    return net.model()


def concat_split() -> onnx.ModelProto:
    """Dead units of two branches, joined, split unevenly and sent to two readers."""
    net = Net("concat_split")
    x = net.input((1, 3, 8, 8))
    a = net.relu(net.conv(x, 3, 4, 1, name="a"))
    b = net.relu(net.conv(x, 3, 6, 1, name="b"))
    y = net.op("Concat", a, b, axis=1)
    p, q = net.op("Split", y, net.ints(3, 7), outs=2, axis=1)
    p, q = net.conv(p, 3, 4, 1, name="p"), net.conv(q, 7, 4, 1, name="q")
    net.output(net.op("Add", p, q), (1, 4, 8, 8))
    net.weights["a.w"][[0, 3]] = 0
    net.weights["a.b"][[0, 3]] = 1.25
    net.weights["b.w"][[1, 5]] = 0
    return net.model()


def grouped() -> onnx.ModelProto:
    """The same coordinate of every group must be dead for it to go."""
    net = Net("grouped")
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, 1, name="a"))
    x = net.relu(net.conv(x, 8, 6, 3, group=2, name="g", pads=[0] * 4))
    net.head(x, 6)
    net.weights["a.w"][[1, 5, 2]] = 0  # coordinate 1 of both groups, coordinate 2 of one
    net.weights["a.b"][[1, 5, 2]] = [0.5, 0.25, 0.5]
    return net.model()


def shuffle() -> onnx.ModelProto:
    """Constants that differ inside a unit of a channel shuffle."""
    net = Net("shuffle")
    x = net.relu(net.conv(net.input((1, 3, 4, 4)), 3, 8, 1, name="a"))
    y = net.op("Reshape", x, net.ints(1, 2, 4, 4, 4))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), net.ints(1, 8, 4, 4))
    net.head(net.relu(net.conv(y, 8, 4, 1, name="c")), 4)
    net.weights["a.w"][[2, 6]] = 0
    net.weights["a.b"][[2, 6]] = [0.3, 0.9]
    return net.model()


def mirrored() -> onnx.ModelProto:
    """Nobody listens to units 1 and 2 of ``b``, so units of ``a`` that only feed them die too."""
    net = Net("mirrored")
    x = net.relu(net.conv(net.input(("n", 3, "h", "w")), 3, 6, name="a"))
    x = net.relu(net.conv(x, 6, 5, name="b"))
    net.output(net.conv(x, 5, 2, name="c"), ("n", 2, "h", "w"))
    net.weights["c.w"][:, [1, 2]] = 0
    net.weights["b.w"][[0, 3, 4], 4] = 0
    return net.model()


def shared_bias(extra: bool) -> onnx.ModelProto:
    """Two readers share one bias vector, and only one of them sums over dead units."""
    net = Net("shared_bias")
    x = net.input((1, 3, 6, 6))
    bias = net.weight(net.uniform(-1, 1, 4), "shared")
    h = net.relu(net.conv(x, 3, 6, 1, name="a"))
    y = net.op("Conv", h, net.weight(net.normal(4, 6, 1, 1), "p.w"), bias)
    z = net.op("Conv", x, net.weight(net.normal(4, 3, 1, 1), "q.w"), bias)
    net.output(net.op("Add", y, z) if not extra else net.op("Mul", y, z), (1, 4, 6, 6))
    net.weights["a.w"][[0, 2]] = 0
    net.weights["a.b"][[0, 2]] = 2.0
    return net.model()


def half() -> onnx.ModelProto:
    """float16 weights and arithmetic."""
    model = chain(1)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model
