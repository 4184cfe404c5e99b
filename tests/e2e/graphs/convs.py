"""Convolutions: grouped, depth-wise, transposed, 1-D and 3-D."""

from __future__ import annotations

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


@graph(shrinks="stem.w c2.w c3.w head.w", keeps="head.b")
def plain_chain(net: Net) -> None:
    """Three convolutions in a row."""
    x = net.relu(net.conv(_stem(net), 8, 12, name="c2"))
    net.head(net.relu(net.conv(x, 12, 16, name="c3")), 16)


@graph(shrinks="stem.w a1.w a2.w b1.w b2.w head.w")
def residual_stream(net: Net) -> None:
    """Two residual blocks: the stream's channels live and die together."""
    x = _stem(net)
    for name in ("a", "b"):
        y = net.relu(net.bn(net.conv(x, 8, 12, name=f"{name}1", bias=False), 12, f"{name}1_bn"))
        y = net.bn(net.conv(y, 12, 8, name=f"{name}2", bias=False), 8, f"{name}2_bn")
        x = net.relu(net.op("Add", x, y))
    net.head(x, 8)


@graph(shrinks="stem.w down.w c.w head.w")
def residual_sum_three(net: Net) -> None:
    """Sum of three inputs, with a projection shortcut."""
    x = _stem(net)
    short = net.conv(x, 8, 12, 1, name="down")
    y = net.conv(x, 8, 12, name="c")
    net.head(net.op("Sum", y, short, net.conv(x, 8, 12, name="d")), 12)


@graph(shrinks="stem.w deep.w deep.b point.w head.w")
def depthwise(net: Net) -> None:
    """Depth-wise separable: group follows the channels."""
    x = net.relu(net.conv(_stem(net), 8, 8, group=8, name="deep"))
    net.head(net.relu(net.conv(x, 8, 12, 1, name="point")), 12)


@graph(shrinks="stem.w deep.w head.w")
def depthwise_multiplier(net: Net) -> None:
    """Depth-wise with multiplier 3: each input channel makes three outputs."""
    x = net.relu(net.conv(_stem(net), 8, 24, group=8, name="deep"))
    net.head(x, 24)


@graph(shrinks="head.w")
def depthwise_on_the_input(net: Net) -> None:
    """Depth-wise directly on the graph input, multiplier 2: the three groups have to stay."""
    x = net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 6, group=3, name="deep"))
    net.head(net.relu(net.conv(x, 6, 8, name="mid")), 8)


@graph(shrinks="stem.w g.w head.w")
def grouped(net: Net) -> None:
    """Grouped convolution: equal count in every group, or whole groups."""
    net.head(net.relu(net.conv(_stem(net, 12), 12, 24, group=3, name="g")), 24)


@graph(shrinks="stem.w g1.w g2.w head.w")
def grouped_twice_different(net: Net) -> None:
    """Two grouped convolutions in a row with different group counts."""
    x = net.relu(net.conv(_stem(net, 24), 24, 24, group=2, name="g1"))
    net.head(net.relu(net.conv(x, 24, 24, group=4, name="g2")), 24)


@graph(shrinks="stem.w r1.w r3.w head.w")
def grouped_bottleneck_residual(net: Net) -> None:
    """ResNeXt block: 1x1, grouped 3x3, 1x1, residual."""
    x = _stem(net, 16)
    y = net.relu(net.conv(x, 16, 16, 1, name="r1"))
    y = net.relu(net.conv(y, 16, 16, group=4, name="r2"))
    net.head(net.relu(net.op("Add", x, net.conv(y, 16, 16, 1, name="r3"))), 16)


def _transposed(net: Net, x: str, cin: int, cout: int, group: int, name: str, rank: int = 2) -> str:
    weight = net.normal(cin, cout // group, *[3] * rank, fan_in=cin // group * 3**rank // 2)
    names = net.weight(weight, f"{name}.w"), net.weight(net.uniform(-0.5, 0.5, cout), f"{name}.b")
    strides, pads = [2] * rank, [1] * (2 * rank)
    out: str = net.op(
        "ConvTranspose",
        x,
        *names,
        group=group,
        strides=strides,
        pads=pads,
        output_padding=[1] * rank,
    )
    return out


@graph(shrinks="stem.w up.w up.b tail.w")
def conv_transpose(net: Net) -> None:
    """ConvTranspose weight is [C_in, C_out, ...]."""
    x = net.relu(_transposed(net, _stem(net), 8, 12, 1, "up"))
    net.output(net.conv(x, 12, 4, name="tail"))


@graph(shrinks="stem.w up.w tail.w")
def conv_transpose_grouped(net: Net) -> None:
    """Grouped ConvTranspose: [C_in, C_out / group, ...]."""
    x = net.relu(_transposed(net, _stem(net, 12), 12, 24, 3, "up"))
    net.output(net.conv(x, 24, 4, name="tail"))


@graph(shrinks="stem.w up.w tail.w")
def conv_transpose_depthwise(net: Net) -> None:
    """Depth-wise ConvTranspose, as in bilinear upsampling layers."""
    x = net.relu(_transposed(net, _stem(net), 8, 8, 8, "up"))
    net.output(net.conv(x, 8, 4, name="tail"))


@graph(shrinks="e1.w e2.w d2.w d1.w", keeps="d0.b")
def unet(net: Net) -> None:
    """U-Net with two skips by Concat and ConvTranspose on the way up."""
    x = net.input((1, 3, 8, 8))
    e1 = net.relu(net.conv(x, 3, 8, name="e1"))
    e2 = net.relu(net.conv(e1, 8, 12, strides=[2, 2], name="e2"))
    e3 = net.relu(net.conv(e2, 12, 16, strides=[2, 2], name="e3"))
    y = net.op("Concat", e2, _transposed(net, e3, 16, 12, 1, "u2"), axis=1)
    y = net.relu(net.conv(y, 24, 12, name="d2"))
    y = net.op("Concat", e1, _transposed(net, y, 12, 8, 1, "u1"), axis=1)
    y = net.relu(net.conv(y, 16, 8, name="d1"))
    net.output(net.conv(y, 8, 2, 1, name="d0"))


@graph(shrinks="c1.w c2.w deep.w head.w", other={"time": 40})
def conv_1d(net: Net) -> None:
    """1-D convolutions over a dynamic time axis, one depth-wise and dilated."""
    x = net.relu(net.conv(net.input((1, 4, "time")), 4, 16, 5, rank=1, name="c1"))
    y = net.conv(x, 16, 16, 3, rank=1, group=16, dilations=[2], pads=[2, 2], name="deep")
    x = net.op("Add", x, net.op("Tanh", y))
    net.head(net.relu(net.conv(x, 16, 12, 3, rank=1, name="c2")), 12)


@graph(shrinks="c1.w c2.w head.w")
def conv_3d(net: Net) -> None:
    """3-D convolutions with pooling over time and space."""
    x = net.relu(net.conv(net.input((1, 3, 4, 8, 8)), 3, 8, 3, rank=3, name="c1"))
    x = net.op("MaxPool", x, kernel_shape=[1, 2, 2], strides=[1, 2, 2])
    net.head(net.relu(net.conv(x, 8, 12, 3, rank=3, name="c2")), 12)


@graph(shrinks="c1.w up.w tail.w")
def conv_transpose_1d(net: Net) -> None:
    """1-D ConvTranspose, as in vocoders."""
    x = net.op("LeakyRelu", net.conv(net.input((1, 4, 16)), 4, 12, 3, rank=1, name="c1"), alpha=0.1)
    x = net.op("LeakyRelu", _transposed(net, x, 12, 8, 1, "up", rank=1))
    net.output(net.op("Tanh", net.conv(x, 8, 1, 3, rank=1, name="tail")))


@graph(shrinks="stem.w c2.w tail.w")
def conv_auto_pad(net: Net) -> None:
    """auto_pad SAME_UPPER with strides, VALID, no kernel_shape attribute."""
    x = net.input((1, 3, 9, 9))
    w1, w2, w3 = net.normal(8, 3, 3, 3), net.normal(12, 8, 3, 3), net.normal(4, 12, 2, 2)
    x = net.op("Conv", x, net.weight(w1, "stem.w"), auto_pad="SAME_UPPER", strides=[2, 2])
    x = net.op("Conv", net.relu(x), net.weight(w2, "c2.w"), auto_pad="VALID")
    net.output(net.op("Conv", net.relu(x), net.weight(w3, "tail.w"), auto_pad="SAME_LOWER"))


@graph(shrinks="a.w b.w head.w")
def one_channel_survives(net: Net) -> None:
    """Layers of one and two channels: at least one must be kept."""
    x = net.input((1, 3, 8, 8))
    x = net.relu(net.conv(x, 3, 2, name="a"))
    x = net.relu(net.conv(x, 2, 1, name="one"))
    net.head(net.relu(net.conv(x, 1, 6, name="b")), 6)


@graph(shrinks="stem.w odd.w head.w")
def odd_channel_counts(net: Net) -> None:
    """Prime widths."""
    net.head(net.relu(net.conv(_stem(net, 7), 7, 13, name="odd")), 13)
