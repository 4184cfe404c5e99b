"""fold-bn where the layer is a MatMul, comes behind, or is half precision."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs.net import Net
from onnx import numpy_helper
from pass_checks import apply, array, same

from onnxprune.passes.fold_bn import FoldBatchNorm


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("bias", ["none", "left", "right", "row"])
def test_matmul(bias):
    net = Net("matmul")
    x = net.op("MatMul", net.input(("n", 5)), net.weight(net.normal(5, 4), "w"), named="layer")
    b = net.weight(net.uniform(-1, 1, *((1, 4) if bias == "row" else (4,))), "b")
    if bias != "none":
        x = net.op("Add", *((b, x) if bias == "left" else (x, b)))
    y = net.bn(x, 4, outputs=["normed"])
    net.output(net.relu(y))
    before = net.model()
    after, result = apply(FoldBatchNorm(), before)
    assert result.modified and kinds(after) == ["MatMul", "Add", "Relu"]
    assert after.graph.node[0].name == "layer"
    assert after.graph.node[1].output[0] == "normed"
    same(before, after, {"n": 3})


def test_channels_of_a_batched_matmul_are_not_its_columns():
    net = Net("batched")
    x = net.op("MatMul", net.input((2, 4, 5)), net.weight(net.normal(5, 4)))
    net.output(net.bn(x, 4))
    before = net.model()
    after, result = apply(FoldBatchNorm(), before)
    assert not result.modified and kinds(after) == kinds(before)
    assert "columns" in next(iter(result.stats["left"].values()))


def forward(group: int = 1, pads: int = 0, *, bias: bool = True, shift: bool = True):
    net = Net("forward")
    x = net.relu(net.bn(net.input((2, 6, 7, 7)), 6, "first"))
    x = net.bn(net.relu(net.conv(x, 6, 6, 1, name="a")), 6, "norm")
    if not shift:
        net.weights["norm.bias"][:] = 0
        net.weights["norm.mean"][:] = 0
    net.output(net.conv(x, 6, 4, 3, name="b", group=group, pads=[pads] * 4, bias=bias))
    return net.model()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_forward_into_a_convolution(group, bias):
    before = forward(group, bias=bias)
    after, result = apply(FoldBatchNorm(), before)
    assert result.stats["folded"] == ["norm"] and kinds(after).count("BatchNormalization") == 1
    same(before, after)
    assert {t.name for t in after.graph.initializer} >= {"b.w", "a.w"}


def test_not_forward_into_padding_unless_nothing_is_added():
    before = forward(pads=1)
    after, result = apply(FoldBatchNorm(), before)
    assert not result.modified and kinds(after) == kinds(before)
    assert "pads with zeros" in result.stats["left"]["norm"]
    before = forward(pads=1, shift=False)
    after, result = apply(FoldBatchNorm(), before)
    assert result.stats["folded"] == ["norm"]
    same(before, after)


def test_forward_can_be_switched_off():
    assert not apply(FoldBatchNorm(forward=False), forward())[1].modified


@pytest.mark.parametrize("transposed", [0, 1])
def test_forward_into_a_gemm(transposed):
    net = Net("gemm")
    x = net.bn(net.relu(net.input(("n", 5))), 5, "norm")
    net.output(net.gemm(x, 5, 3, name="fc", transB=transposed, alpha=0.5, beta=2.0))
    before = net.model()
    after, result = apply(FoldBatchNorm(), before)
    assert result.modified and kinds(after) == ["Relu", "Gemm"]
    same(before, after, {"n": 4})


def test_half_precision_stays_half():
    before = forward()
    for tensor in before.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), tensor.name))
    for value in (*before.graph.input, *before.graph.output, *before.graph.value_info):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    after, result = apply(FoldBatchNorm(), before)
    assert result.modified and array(after, "b.w").dtype == np.float16
    same(before, after, limit=2e-2)


def test_shared_statistics_and_bias():
    """Two branches use one bias and one set of statistics."""
    net = Net("shared")
    x = net.input((1, 3, 5, 5))
    bias = net.weight(net.uniform(-1, 1, 4), "bias")
    parts = [net.op("Conv", x, net.weight(net.normal(4, 3, 1, 1), f"w{i}"), bias) for i in range(2)]
    names = [net.weight(net.uniform(0.5, 1.5, 4), n) for n in ("scale", "shift", "mean", "var")]
    parts = [net.op("BatchNormalization", p, *names) for p in parts]
    net.output(net.op("Mul", *parts))
    before = net.model()
    after, result = apply(FoldBatchNorm(), before)
    assert len(result.stats["folded"]) == 2 and kinds(after) == ["Conv", "Conv", "Mul"]
    assert {"scale", "shift", "mean", "var"}.isdisjoint(t.name for t in after.graph.initializer)
    same(before, after)
