"""Gates, slopes, broadcasts and other element-wise traps."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8, batch: int | str = 1) -> str:
    return net.conv(net.input((batch, 3, 8, 8)), 3, channels, name="stem")


@graph(shrinks="stem.w squeeze.w excite.w head.w")
def squeeze_excite_conv(net: Net) -> None:
    """SE with 1x1 convolutions: gate tied to the trunk, inner width free."""
    x = net.relu(_stem(net))
    s = net.relu(net.conv(net.op("GlobalAveragePool", x), 8, 4, 1, name="squeeze"))
    s = net.op("Sigmoid", net.conv(s, 4, 8, 1, name="excite"))
    net.head(net.relu(net.conv(net.op("Mul", x, s), 8, 12, name="c2")), 12)


@graph(shrinks="stem.w squeeze.w excite.w head.w", opset=18, other={"batch": 2})
def squeeze_excite_linear(net: Net) -> None:
    """SE with ReduceMean keepdims=0, Gemm, HardSigmoid, Reshape [-1, C, 1, 1]."""
    x = net.relu(_stem(net, batch="batch"))
    s = net.op("ReduceMean", x, net.ints(2, 3), keepdims=0)
    s = net.relu(net.gemm(s, 8, 4, name="squeeze", transB=1))
    s = net.op("HardSigmoid", net.gemm(s, 4, 8, name="excite", transB=1))
    s = net.op("Reshape", s, net.ints(-1, 8, 1, 1))
    net.head(net.relu(net.conv(net.op("Mul", s, x), 8, 12, name="c2")), 12)


@graph(shrinks="c2.w head.w")
def eca_gate(net: Net) -> None:
    """ECA: a 1-D convolution across the channels of the pooled vector mixes neighbours."""
    x = net.relu(_stem(net))
    s = net.op("Reshape", net.op("GlobalAveragePool", x), net.ints(1, 1, 8))
    s = net.op("Sigmoid", net.conv(s, 1, 1, 3, rank=1, name="eca", bias=False))
    x = net.op("Mul", x, net.op("Reshape", s, net.ints(1, 8, 1, 1)))
    net.head(net.relu(net.conv(net.relu(net.conv(x, 8, 12, name="c2")), 12, 8, name="c3")), 8)


@graph(shrinks="stem.w slope head.w")
def prelu_per_channel(net: Net) -> None:
    """PRelu slope [C, 1, 1]."""
    x = net.op("PRelu", _stem(net), net.weight(net.uniform(0.1, 0.5, 8, 1, 1), "slope"))
    net.head(x, 8)


@graph(shrinks="stem.w head.w", keeps="slope")
def prelu_shared(net: Net) -> None:
    """PRelu slope [1]: broadcast, must stay."""
    x = net.op("PRelu", _stem(net), net.weight(net.uniform(0.1, 0.5, 1), "slope"))
    net.head(x, 8)


@graph(shrinks="stem.w c2.w head.w", keeps="slope")
def prelu_slope_shared_by_two(net: Net) -> None:
    """One [1, 1, 1] slope for two layers."""
    slope = net.weight(net.uniform(0.1, 0.5, 1, 1, 1), "slope")
    x = net.op("PRelu", _stem(net), slope)
    net.head(net.op("PRelu", net.conv(x, 8, 12, name="c2"), slope), 12)


@graph(shrinks="stem.w head.w", opset=9)
def clip_attributes(net: Net) -> None:
    """Clip with attributes (before opset 11)."""
    net.head(net.op("Clip", _stem(net), min=0.0, max=6.0), 8)


@graph(shrinks="stem.w head.w", opset=13)
def clip_inputs(net: Net) -> None:
    """Clip with inputs, then one with an empty minimum."""
    x = net.op("Clip", _stem(net), net.scalar(0.0), net.scalar(6.0))
    net.head(net.op("Clip", x, "", net.scalar(4.0)), 8)


@graph(shrinks="stem.w head.w", opset=7)
def dropout_old(net: Net) -> None:
    """Dropout 7 with ratio attribute and an unused mask output."""
    x, _ = net.op("Dropout", net.relu(_stem(net)), outs=2, ratio=0.3)
    net.head(x, 8)


@graph(shrinks="stem.w head.w", opset=13)
def dropout_new(net: Net) -> None:
    """Dropout 13 with ratio and training_mode inputs."""
    off = net.weight(np.array(False))
    net.head(net.op("Dropout", net.relu(_stem(net)), net.scalar(0.3), off), 8)


@graph(shrinks="stem.w c2.w head.w")
def identity_chain(net: Net) -> None:
    """Identities and a Cast to float between layers."""
    x = net.op("Identity", net.op("Identity", net.relu(_stem(net))))
    x = net.op("Cast", net.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT)
    net.head(net.op("Identity", net.conv(net.op("Identity", x), 8, 12, name="c2")), 12)


@graph(shrinks="stem.w c2.w head.w")
def where_between_streams(net: Net) -> None:
    """Where with a computed condition couples both branches."""
    x = _stem(net)
    y = net.conv(x, 8, 8, name="c2")
    keep = net.op("Greater", x, net.scalar(0.0))
    net.head(net.op("Where", keep, x, y), 8)


@graph(shrinks="stem.w head.w", keeps="fill")
def where_constant_mask(net: Net) -> None:
    """Where with a per-channel constant condition and a scalar."""
    mask = net.weight(net.rng.random((1, 8, 1, 1)) < 0.5, "mask")
    fill = net.weight(np.array([0.25], np.float32), "fill")
    net.head(net.op("Where", mask, _stem(net), fill), 8)


@graph(shrinks="stem.w c2.w head.w")
def min_max_mean_variadic(net: Net) -> None:
    """Max, Min, Mean of several streams."""
    x = _stem(net)
    y, z = net.conv(x, 8, 8, name="c2"), net.conv(x, 8, 8, name="c3")
    x = net.op("Max", x, y, net.scalar(0.0))
    net.head(net.op("Mean", net.op("Min", x, z), y, z), 8)


@graph(shrinks="stem.w head.w")
def swish_and_gelu(net: Net) -> None:
    """x * sigmoid(x), then GELU spelled with Erf, then Mish with Softplus and Tanh."""
    x = _stem(net)
    x = net.op("Mul", x, net.op("Sigmoid", x))
    x = net.conv(x, 8, 8, name="c2")
    e = net.op("Erf", net.op("Div", x, net.scalar(1.4142135)))
    x = net.op("Mul", net.op("Mul", x, net.op("Add", e, net.scalar(1.0))), net.scalar(0.5))
    x = net.conv(x, 8, 8, name="c3")
    net.head(net.op("Mul", x, net.op("Tanh", net.op("Softplus", x))), 8)


@graph(shrinks="stem.w one.w head.w")
def broadcast_single_channel(net: Net) -> None:
    """A one-channel map is broadcast over all channels."""
    x = net.relu(_stem(net))
    plane = net.relu(net.conv(x, 8, 6, name="one"))
    plane = net.op("Sigmoid", net.conv(plane, 6, 1, name="two"))
    net.head(net.op("Mul", plane, x), 8)


@graph(shrinks="stem.w head.w", keeps="row")
def broadcast_trailing(net: Net) -> None:
    """A constant of length W == C broadcasts over width, not over channels."""
    x = net.op("Add", _stem(net), net.weight(net.uniform(-1, 1, 8), "row"))
    net.head(net.relu(x), 8)


@graph(shrinks="stem.w head.w")
def broadcast_from_vector(net: Net) -> None:
    """FiLM: a Gemm of a second input gives scale and shift per channel."""
    x = _stem(net)
    code = net.gemm(net.input((1, 6), "code"), 6, 16, name="film")
    scale, shift = net.op("Split", code, net.ints(8, 8), outs=2, axis=1)
    axes = net.ints(2, 3)
    x = net.op("Mul", x, net.op("Unsqueeze", scale, axes))
    net.head(net.relu(net.op("Add", x, net.op("Unsqueeze", shift, axes))), 8)


@graph(shrinks="stem.w tail.w")
def expand_constant_shape(net: Net) -> None:
    """Expand of the pooled vector to a shape that names the channels."""
    x = net.relu(_stem(net))
    pooled = net.conv(net.op("GlobalAveragePool", x), 8, 8, 1, name="pool")
    wide = net.op("Expand", pooled, net.ints(1, 8, 8, 8))
    net.output(net.conv(net.op("Concat", x, wide, axis=1), 16, 4, name="tail"))


@graph(shrinks="stem.w tail.w")
def expand_from_one_channel(net: Net) -> None:
    """Expand from one channel to C names C in its shape, but no coordinate of its source."""
    x = net.relu(_stem(net))
    wide = net.op("Expand", net.conv(x, 8, 1, name="plane"), net.ints(1, 8, 8, 8))
    net.output(net.conv(net.op("Mul", x, wide), 8, 4, name="tail"))


@graph(shrinks="stem.w tail.w")
def tile_space_and_channels(net: Net) -> None:
    """Tile over channels: channel c appears at c and C + c."""
    x = net.op("Tile", net.relu(_stem(net)), net.ints(1, 2, 1, 1))
    net.output(net.conv(x, 16, 4, name="tail"))


@graph(shrinks="stem.w tail.w", other={"batch": 3})
def expand_computed_shape(net: Net) -> None:
    """Class-token style Expand to a batch size taken from Shape."""
    x = net.relu(_stem(net, batch="batch"))
    batch = net.op("Gather", net.op("Shape", x), net.ints(0), axis=0)
    shape = net.op("Concat", batch, net.ints(-1, -1, -1), axis=0)
    shape = net.op("Where", net.op("Equal", shape, net.ints(-1)), net.ints(1), shape)
    token = net.op("Expand", net.weight(net.uniform(-1, 1, 1, 8, 1, 8), "token"), shape)
    x = net.op("Concat", token, x, axis=2)
    net.output(net.conv(x, 8, 4, name="tail"), ("batch", 4, 9, 8))


@graph(shrinks="stem.w head.w", opset=13)
def cum_sum_over_space(net: Net) -> None:
    """CumSum along the width only."""
    axis = net.weight(np.array(3, np.int64))
    net.head(net.op("CumSum", net.op("Tanh", _stem(net)), axis), 8)
