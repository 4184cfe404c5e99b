"""Transposes, NHWC, channel shuffles, space and depth."""

from __future__ import annotations

import numpy as np

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


def _nhwc(net: Net, x: str) -> str:
    out: str = net.op("Transpose", x, perm=[0, 2, 3, 1])
    return out


def _nchw(net: Net, x: str) -> str:
    out: str = net.op("Transpose", x, perm=[0, 3, 1, 2])
    return out


@graph(shrinks="c1.w c1.b scale c2.w fc.w", other={"batch": 2})
def nhwc_by_transpose(net: Net) -> None:
    """tf2onnx style: a Transpose around every Conv, bias as Add on the last axis."""
    x = net.input(("batch", 8, 8, 3))
    x = _nhwc(net, net.conv(_nchw(net, x), 3, 8, name="c1", bias=False))
    x = net.relu(net.op("Add", x, net.weight(net.uniform(-0.5, 0.5, 8), "c1.b")))
    x = net.op("Mul", x, net.weight(net.signed(8), "scale"))
    x = _nhwc(net, net.conv(_nchw(net, x), 8, 12, name="c2"))
    x = net.op("ReduceMean", net.relu(x), axes=[1, 2], keepdims=0)
    weight = net.weight(net.normal(12, 5, fan_in=12), "fc.w")
    net.output(net.op("Add", net.op("MatMul", x, weight), net.weight(net.uniform(-1, 1, 5))))


@graph(shrinks="a.w b.w c.w fc.w")
def nhwc_concat_residual(net: Net) -> None:
    """Concat on axis -1 and a residual Add in NHWC, then Reshape to [N, H*W*C]."""
    x = net.input((1, 8, 8, 3))
    a = net.relu(_nhwc(net, net.conv(_nchw(net, x), 3, 6, name="a")))
    b = net.relu(_nhwc(net, net.conv(_nchw(net, x), 3, 10, name="b")))
    x = net.op("Concat", a, b, axis=-1)
    y = _nhwc(net, net.conv(_nchw(net, x), 16, 16, name="c"))
    x = net.op("Reshape", net.op("Add", x, y), net.ints(-1, 1024))
    net.output(net.gemm(x, 1024, 5, name="fc"))


@graph(shrinks="stem.w tail.w")
def transpose_default_perm(net: Net) -> None:
    """Transpose without perm reverses all axes; twice is the identity."""
    x = net.op("Transpose", net.op("Sigmoid", net.op("Transpose", _stem(net))))
    net.output(net.conv(x, 8, 4, name="tail"))


@graph(shrinks="stem.w fc1.w fc2.w")
def transpose_mlp_on_channels(net: Net) -> None:
    """ConvNeXt style: NHWC, LayerNorm-free MLP on the last axis, back to NCHW and add."""
    x = _stem(net)
    y = _nhwc(net, x)
    y = net.op("MatMul", y, net.weight(net.normal(8, 24, fan_in=8), "fc1.w"))
    y = net.relu(net.op("Add", y, net.weight(net.uniform(-0.5, 0.5, 24), "fc1.b")))
    y = net.op("MatMul", y, net.weight(net.normal(24, 8, fan_in=24), "fc2.w"))
    net.head(net.op("Add", x, _nchw(net, y)), 8)


@graph(shrinks="stem.w tail.w")
def channel_shuffle_static(net: Net) -> None:
    """Reshape [1, 2, 4, 8, 8], Transpose, Reshape back."""
    x = net.op("Reshape", _stem(net), net.ints(1, 2, 4, 8, 8))
    x = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    net.output(net.conv(net.op("Reshape", x, net.ints(1, 8, 8, 8)), 8, 4, name="tail"))


def _shuffle_unit(net: Net, groups: int) -> None:
    x = net.relu(net.conv(net.input(("batch", 3, 8, 8)), 3, 12, name="stem"))
    y = net.relu(net.conv(x, 12, 12, 1, group=groups, name="g1"))
    y = net.op("Reshape", y, net.ints(-1, groups, 12 // groups, 8, 8))
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), net.ints(-1, 12, 8, 8))
    y = net.conv(y, 12, 12, group=12, name="deep")
    y = net.conv(y, 12, 12, 1, group=groups, name="g2")
    net.output(net.conv(net.op("Add", x, y), 12, 4, name="tail"), ("batch", 4, 8, 8))


@graph(shrinks="stem.w deep.w tail.w", other={"batch": 2})
def channel_shuffle_grouped(net: Net) -> None:
    """ShuffleNet unit: grouped 1x1, shuffle with -1, depth-wise, grouped 1x1, residual."""
    _shuffle_unit(net, 2)


@graph(shrinks="stem.w tail.w", keeps="deep.w", other={"batch": 2})
def channel_shuffle_grouped_odd(net: Net) -> None:
    """Shuffling 3 groups of 4: no choice of channels leaves both sides with equal groups of whole
    rows, so the shuffled channels are one unit."""
    _shuffle_unit(net, 3)


@graph(shrinks="stem.w tail.w")
def channel_shuffle_three_dims(net: Net) -> None:
    """Shuffle spelled [C/g, g, H*W] without the batch axis."""
    x = net.op("Reshape", _stem(net, 12), net.ints(4, 3, 64))
    x = net.op("Transpose", x, perm=[1, 0, 2])
    net.output(net.conv(net.op("Reshape", x, net.ints(1, -1, 8, 8)), 12, 4, name="tail"))


@graph(shrinks="up.w tail.w", opset=13)
def depth_to_space_dcr(net: Net) -> None:
    """DepthToSpace in DCR order between convolutions."""
    x = net.conv(_stem(net), 8, 32, name="up")
    x = net.op("DepthToSpace", x, blocksize=2, mode="DCR")
    net.output(net.conv(net.relu(x), 8, 4, name="tail"))


@graph(shrinks="up.w tail.w", opset=13)
def depth_to_space_crd(net: Net) -> None:
    """PixelShuffle: DepthToSpace in CRD order."""
    x = net.conv(_stem(net), 8, 32, name="up")
    x = net.op("DepthToSpace", x, blocksize=2, mode="CRD")
    net.output(net.conv(net.relu(x), 8, 4, name="tail"))


@graph(shrinks="stem.w", keeps="up.b", opset=13)
def depth_to_space_at_output(net: Net) -> None:
    """Super-resolution tail: the shuffled channels are the output image, so they stay."""
    x = net.conv(_stem(net), 8, 12, name="up")
    net.output(net.op("DepthToSpace", x, blocksize=2, mode="CRD"))


@graph(shrinks="up.w tail.w", opset=13)
def pixel_shuffle_by_reshape(net: Net) -> None:
    """PixelShuffle spelled Reshape, Transpose, Reshape (6-D)."""
    x = net.conv(_stem(net), 8, 32, name="up")
    x = net.op("Reshape", x, net.ints(1, 8, 2, 2, 8, 8))
    x = net.op("Transpose", x, perm=[0, 1, 4, 2, 5, 3])
    x = net.op("Reshape", x, net.ints(1, 8, 16, 16))
    net.output(net.conv(net.relu(x), 8, 4, name="tail"))


@graph(shrinks="stem.w tail.w", opset=13)
def space_to_depth(net: Net) -> None:
    """SpaceToDepth: each channel appears four times, interleaved."""
    x = net.op("SpaceToDepth", _stem(net), blocksize=2)
    net.output(net.conv(x, 32, 4, name="tail"))


@graph(shrinks="stem.w fc.w")
def tokens_from_image(net: Net) -> None:
    """Patch embedding: Conv, Reshape to [N, C, HW], Transpose to tokens, linear, mean."""
    x = net.op("Reshape", _stem(net), net.ints(1, 8, -1))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    table = net.weight(net.uniform(-1, 1, 1, 64, 8), "positions")
    x = net.op("MatMul", net.op("Add", x, table), net.weight(net.normal(8, 12, fan_in=8), "fc.w"))
    net.output(net.op("ReduceMean", x, axes=[1], keepdims=0))


@graph(shrinks="stem.w tail.w", opset=13)
def einsum_free_attention_gate(net: Net) -> None:
    """Spatial attention: mean over channels gives one plane that gates every channel."""
    x = _stem(net)
    plane = net.op("Sigmoid", net.conv(x, 8, 1, name="gate"))
    net.output(net.conv(net.op("Mul", x, plane), 8, 4, name="tail"))


@graph(shrinks="stem.w tail.w")
def constant_on_the_left(net: Net) -> None:
    """Mul and Sub whose first operand is a per-channel constant, Div whose second is."""
    x = _stem(net)
    x = net.op("Mul", net.weight(net.signed(1, 8, 1, 1), "k1"), x)
    x = net.op("Sub", net.weight(net.uniform(-1, 1, 8, 1, 1), "k2"), x)
    x = net.op("Div", x, net.weight(np.abs(net.signed(1, 8, 8, 8)), "k3"))
    net.output(net.conv(x, 8, 4, name="tail"))


@graph(shrinks="stem.w fc.w")
def squeeze_of_an_axis_of_unknown_size(net: Net) -> None:
    """The axes that Squeeze names tell what stays where, whatever else is known of them."""
    x = net.input((1, 3, "height", "width"))
    x = net.relu(net.conv(x, 3, 8, name="stem"))
    sizes = net.op("Shape", x)
    height = net.op("Gather", sizes, net.ints(2), axis=0)
    one = net.op("Div", net.op("Mul", height, height), net.op("Mul", height, height))
    x = net.op("Slice", x, net.ints(0), one, net.ints(2))
    x = net.op("Slice", x, net.ints(0), one, net.ints(3))
    x = net.op("Squeeze", x, net.ints(2))
    x = net.op("Squeeze", x, net.ints(-1))
    net.output(net.gemm(x, 8, 5, name="fc"))
