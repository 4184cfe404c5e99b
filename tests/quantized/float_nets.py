"""Small float networks to be quantised: residual, mobile, joining, recurrent, transformer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and weights; every method returns the name of a value."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int, scale: float | None = None) -> str:
        name = f"w{len(self.weights)}"
        fan = float(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        scale = fan**-0.5 if scale is None else scale
        array = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def const(self, array: object, dtype: str = "int64") -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attrs: object) -> str:
        out = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], name=f"n{out}", **attrs))
        return out

    def conv(self, x: str, i: int, o: int, k: int = 3, stride: int = 1, group: int = 1) -> str:
        w, b = self.weight(o, i // group, k, k), self.weight(o, scale=0.1)
        pads = [k // 2] * 4
        return self.op("Conv", x, w, b, pads=pads, strides=[stride] * 2, group=group)

    def model(self, x: list[int | str], y: str, out: list[int | str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, out)],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(made)


def resnet() -> onnx.ModelProto:
    b = Builder(1)
    x = b.op("Relu", b.conv("x", 3, 16))
    for _ in range(2):
        inner = b.op("Relu", b.conv(x, 16, 16))
        x = b.op("Relu", b.op("Add", b.conv(inner, 16, 16), x))
    wide = b.op("Relu", b.conv(x, 16, 32, stride=2))
    x = b.op("Relu", b.op("Add", b.conv(wide, 32, 32), b.conv(x, 16, 32, 1, 2)))
    x = b.op("Flatten", b.op("GlobalAveragePool", x))
    y = b.op("Gemm", x, b.weight(10, 32), b.weight(10), transB=1)
    return b.model(["n", 3, 12, 12], y, ["n", 10])


def mobile() -> onnx.ModelProto:
    b = Builder(2)

    def relu6(v: str) -> str:
        return b.op("Clip", v, b.const(0.0, "float32"), b.const(6.0, "float32"))

    x = relu6(b.conv("x", 3, 16, stride=2))
    for _ in range(2):
        inner = relu6(b.conv(x, 16, 48, 1))
        inner = relu6(b.conv(inner, 48, 48, 3, group=48))
        x = b.op("Add", b.conv(inner, 48, 16, 1), x)
    x = b.op("Flatten", b.op("GlobalAveragePool", relu6(b.conv(x, 16, 64, 1))))
    y = b.op("Gemm", x, b.weight(10, 64), b.weight(10), transB=1)
    return b.model(["n", 3, 16, 16], y, ["n", 10])


def joining() -> onnx.ModelProto:
    """Concat, average pooling, leaky relu, sigmoid gate, max pooling."""
    b = Builder(3)
    x = b.op("LeakyRelu", b.conv("x", 3, 16), alpha=0.1)
    left = b.op("Relu", b.conv(x, 16, 16, 1))
    right = b.op("AveragePool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    x = b.op("Concat", left, right, axis=1)
    gate = b.op("Sigmoid", b.conv(b.op("GlobalAveragePool", x), 32, 32, 1))
    x = b.op("Mul", x, gate)
    x = b.op("MaxPool", b.conv(x, 32, 32, group=2), kernel_shape=[2, 2], strides=[2, 2])
    x = b.op("Flatten", x)
    y = b.op("MatMul", x, b.weight(32 * 9, 10))
    return b.model([1, 3, 6, 6], y, [1, 10])


def recurrent() -> onnx.ModelProto:
    b = Builder(4)
    x = b.op("MatMul", "x", b.weight(8, 16))
    w, r, bias = b.weight(1, 64, 16), b.weight(1, 64, 16), b.weight(1, 128, scale=0.1)
    b.nodes.append(helper.make_node("LSTM", [x, w, r, bias], ["h"], name="lstm", hidden_size=16))
    x = b.op("Squeeze", "h", b.const([1]))
    x = b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(16, 32)), b.weight(32)))
    y = b.op("MatMul", x, b.weight(32, 8))
    return b.model([5, 2, 8], y, [5, 2, 8])


def transformer() -> onnx.ModelProto:
    b = Builder(5)
    d, heads = 32, 4
    x = b.op("Add", b.op("MatMul", "x", b.weight(16, d)), b.weight(d))

    def heads_of(v: str, perm: list[int]) -> str:
        v = b.op("Add", b.op("MatMul", v, b.weight(d, d)), b.weight(d, scale=0.1))
        v = b.op("Reshape", v, b.const([0, 0, heads, d // heads]))
        return b.op("Transpose", v, perm=perm)

    q, k, v = heads_of(x, [0, 2, 1, 3]), heads_of(x, [0, 2, 3, 1]), heads_of(x, [0, 2, 1, 3])
    scores = b.op("Mul", b.op("MatMul", q, k), b.const(heads**-0.5, "float32"))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), v)
    mixed = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.const([0, 0, d]))
    x = b.op("Add", b.op("MatMul", mixed, b.weight(d, d)), x)
    x = b.op("LayerNormalization", x, b.weight(d), b.weight(d), axis=-1)
    inner = b.op("Relu", b.op("Add", b.op("MatMul", x, b.weight(d, 128)), b.weight(128)))
    x = b.op("Add", b.op("MatMul", inner, b.weight(128, d)), x)
    y = b.op("MatMul", x, b.weight(d, 8))
    return b.model([2, 6, 16], y, [2, 6, 8])


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnet": resnet,
    "mobile": mobile,
    "joining": joining,
    "recurrent": recurrent,
    "transformer": transformer,
}
