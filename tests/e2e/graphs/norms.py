"""Normalisations: batch (unfolded), instance, group by instance, layer, LRN."""

from __future__ import annotations

import numpy as np

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem")


@graph(shrinks="stem.w bn.scale bn.bias bn.mean bn.var c2.w head.w")
def batch_norm_unfolded(net: Net) -> None:
    """Conv, BatchNormalization, Relu twice."""
    x = net.relu(net.bn(_stem(net), 8, "bn"))
    net.head(net.relu(net.bn(net.conv(x, 8, 12, name="c2"), 12)), 12)


@graph(shrinks="stem.w bn.scale head.w", opset=9)
def batch_norm_opset9(net: Net) -> None:
    """BatchNormalization 9 with momentum and epsilon."""
    net.head(net.relu(net.bn(_stem(net), 8, "bn", epsilon=1e-3, momentum=0.99)), 8)


@graph(shrinks="stem.w bn.scale head.w", opset=15)
def batch_norm_then_pad(net: Net) -> None:
    """Batch norm with no activation into a padded convolution: act(beta) meets the border."""
    x = net.conv(net.bn(_stem(net), 8, "bn"), 8, 12, 5, name="c2")
    net.head(net.op("Sigmoid", x), 12)


@graph(shrinks="stem.w shared.scale a.w head.w")
def batch_norm_shared_parameters(net: Net) -> None:
    """One set of batch-norm parameters in two nodes on different streams."""
    x = _stem(net)
    y = net.relu(net.bn(x, 8, "shared"))
    y = net.conv(y, 8, 8, name="a")
    names = ["shared.scale", "shared.bias", "shared.mean", "shared.var"]
    net.head(net.relu(net.op("BatchNormalization", y, *names)), 8)


@graph(shrinks="stem.w bn.scale fc.w fc2.w", other={"batch": 3})
def batch_norm_1d(net: Net) -> None:
    """BatchNormalization of a matrix between Gemms."""
    x = net.op("Flatten", net.op("GlobalAveragePool", net.relu(_stem_dynamic(net))))
    x = net.relu(net.bn(net.gemm(x, 8, 16, name="fc"), 16, "bn"))
    net.output(net.gemm(x, 16, 5, name="fc2"), ("batch", 5))


def _stem_dynamic(net: Net) -> str:
    return net.conv(net.input(("batch", 3, 8, 8)), 3, 8, name="stem")


@graph(shrinks="stem.w mul add head.w")
def batch_norm_as_mul_add(net: Net) -> None:
    """Batch norm spelled Sub, Mul, Add with [C, 1, 1] constants."""
    x = net.op("Sub", _stem(net), net.weight(net.uniform(-1, 1, 8, 1, 1), "mean"))
    x = net.op("Mul", x, net.weight(net.signed(8, 1, 1), "mul"))
    net.head(net.relu(net.op("Add", x, net.weight(net.uniform(-1, 1, 1, 8, 1, 1), "add"))), 8)


@graph(shrinks="stem.w in.scale head.w")
def instance_norm(net: Net) -> None:
    """InstanceNormalization is per channel."""
    names = net.weight(net.signed(8), "in.scale"), net.weight(net.uniform(-1, 1, 8), "in.bias")
    x = net.op("InstanceNormalization", _stem(net), *names)
    net.head(net.op("LeakyRelu", x), 8)


@graph(mixing=True)
def group_norm_by_instance_norm(net: Net) -> None:
    """torch's GroupNorm: Reshape [0, G, -1], InstanceNormalization, Reshape, Mul, Add."""
    x = net.op("Reshape", _stem(net, 16), net.ints(0, 4, -1))
    one, zero = net.weight(np.ones(4, np.float32)), net.weight(np.zeros(4, np.float32))
    x = net.op("InstanceNormalization", x, one, zero)
    x = net.op("Reshape", x, net.ints(1, 16, 8, 8))
    x = net.op("Mul", x, net.weight(net.signed(16, 1, 1), "gn.scale"))
    x = net.relu(net.op("Add", x, net.weight(net.uniform(-1, 1, 16, 1, 1), "gn.bias")))
    net.head(net.relu(net.conv(x, 16, 12, name="c2")), 12)


@graph(mixing=True, opset=21)
def group_norm_op(net: Net) -> None:
    """GroupNormalization 21: scale and bias per channel."""
    names = net.weight(net.signed(16), "gn.scale"), net.weight(net.uniform(-1, 1, 16), "gn.bias")
    x = net.relu(net.op("GroupNormalization", _stem(net, 16), *names, num_groups=4))
    net.output(net.relu(net.conv(x, 16, 12, name="c2")), (1, 12, 8, 8))


@graph(mixing=True)
def layer_norm_channels_last(net: Net) -> None:
    """LayerNormalization over the channels in NHWC."""
    x = net.op("Transpose", _stem(net), perm=[0, 2, 3, 1])
    names = net.weight(net.signed(8), "ln.scale"), net.weight(net.uniform(-1, 1, 8), "ln.bias")
    x = net.op("LayerNormalization", x, *names, axis=-1)
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    net.head(net.relu(net.conv(x, 8, 12, name="c2")), 12)


@graph(mixing=True)
def layer_norm_spelled_out(net: Net) -> None:
    """LayerNorm2d as ReduceMean, Sub, Pow, ReduceMean, Sqrt, Div over the channel axis."""
    x = _stem(net)
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[1], keepdims=1))
    square = net.op("Pow", centred, net.scalar(2.0))
    variance = net.op("ReduceMean", square, axes=[1], keepdims=1)
    x = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.scalar(1e-5))))
    x = net.op("Mul", x, net.weight(net.signed(8, 1, 1), "ln.scale"))
    net.head(net.relu(net.conv(x, 8, 12, name="c2")), 12)


@graph(mixing=True)
def lrn(net: Net) -> None:
    """LRN sums squares of neighbouring channels."""
    x = net.op("LRN", net.relu(_stem(net)), size=5, alpha=1e-1, beta=0.75, bias=1.0)
    net.head(net.relu(net.conv(x, 8, 12, name="c2")), 12)


@graph(mixing=True)
def softmax_over_channels(net: Net) -> None:
    """Softmax over the channel axis of an inner layer."""
    x = net.op("Softmax", _stem(net), axis=1)
    net.head(net.relu(net.conv(x, 8, 12, name="c2")), 12)


@graph(mixing=True)
def lp_norm_embedding(net: Net) -> None:
    """LpNormalization of an embedding over its channels, then a Gemm."""
    x = net.op("Flatten", net.op("GlobalAveragePool", net.relu(_stem(net))))
    x = net.op("LpNormalization", x, axis=1, p=2)
    x = net.relu(net.gemm(x, 8, 12, name="fc"))
    net.output(net.gemm(x, 12, 5, name="fc2"))


@graph(mixing=True, opset=13)
def mean_over_channels(net: Net) -> None:
    """CBAM: mean and max over channels, concatenated to two planes."""
    x = net.relu(_stem(net))
    mean = net.op("ReduceMean", x, axes=[1], keepdims=1)
    top = net.op("ReduceMax", x, axes=[1], keepdims=1)
    gate = net.op("Sigmoid", net.conv(net.op("Concat", mean, top, axis=1), 2, 1, 7, name="gate"))
    net.head(net.relu(net.conv(net.op("Mul", x, gate), 8, 12, name="c2")), 12)


@graph(shrinks="stem.w head.w", opset=13, strict=False)
def mean_variance_per_channel(net: Net) -> None:
    """MeanVarianceNormalization over batch and space, per channel (its default axes)."""
    net.head(net.relu(net.op("MeanVarianceNormalization", _stem(net))), 8)
