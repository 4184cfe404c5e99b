"""Concat and Split in every opset form."""

from __future__ import annotations

from .net import Net
from .register import graph


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


@graph(shrinks="a.w b.w c.w tail.w")
def concat_offsets_move(net: Net) -> None:
    """Three branches of different width; the consumer's later columns move."""
    x = net.input((1, 3, 8, 8))
    parts = [
        net.relu(net.conv(x, 3, width, name=name))
        for name, width in (("a", 4), ("b", 6), ("c", 10))
    ]
    net.output(net.conv(net.op("Concat", *parts, axis=1), 20, 4, name="tail"))


@graph(shrinks="stem.w one.w two.w head.w")
def concat_dense_block(net: Net) -> None:
    """DenseNet: a value reaches several consumers through nested Concats, BN in between."""
    x = _stem(net)
    width = 8
    for name in ("one", "two"):
        y = net.relu(net.bn(x, width, f"{name}_bn"))
        x = net.op("Concat", x, net.conv(y, width, 4, name=name), axis=-3)
        width += 4
    net.head(net.relu(net.bn(x, width, "last")), width)


@graph(shrinks="stem.w tail.w")
def concat_same_value_twice(net: Net) -> None:
    """Concat of a value with itself: each channel appears at two places."""
    x = _stem(net)
    net.output(net.conv(net.op("Concat", x, net.op("Neg", x), x, axis=1), 24, 4, name="tail"))


@graph(shrinks="stem.w tail.w")
def concat_with_constant(net: Net) -> None:
    """CoordConv: constant planes are concatenated behind the features."""
    x = _stem(net)
    plane = net.weight(net.uniform(-1, 1, 1, 2, 8, 8), "plane")
    net.output(net.conv(net.op("Concat", x, plane, axis=1), 10, 4, name="tail"))


@graph(shrinks="stem.w", other={"batch": 2})
def concat_on_height(net: Net) -> None:
    """Concat on a spatial axis couples the channels of its inputs."""
    x = net.input(("batch", 3, 8, 8))
    a = net.relu(net.conv(x, 3, 8, name="stem"))
    b = net.relu(net.conv(x, 3, 8, 1, name="side"))
    net.output(net.conv(net.op("Concat", a, b, axis=2), 8, 4, name="tail"), ("batch", 4, 16, 8))


def _use(net: Net, parts: tuple[str, ...], widths: tuple[int, ...]) -> None:
    ends = [
        net.conv(part, width, 4, name=f"tail{i}")
        for i, (part, width) in enumerate(zip(parts, widths, strict=True))
    ]
    total = ends[0]
    for end in ends[1:]:
        total = net.op("Add", total, end)
    net.output(total)


@graph(shrinks="stem.w tail0.w tail1.w", opset=7)
def split_opset2_attribute(net: Net) -> None:
    """Split-2: sizes as an attribute."""
    x = _stem(net, 12)
    _use(net, net.op("Split", x, outs=2, axis=1, split=[4, 8]), (4, 8))


@graph(shrinks="stem.w tail0.w tail1.w", opset=7)
def split_opset2_equal(net: Net) -> None:
    """Split-2 without sizes: equal parts, so they are coupled."""
    _use(net, net.op("Split", _stem(net), outs=2, axis=1), (4, 4))


@graph(shrinks="stem.w tail0.w tail1.w", opset=11)
def split_opset11_negative_axis(net: Net) -> None:
    """Split sizes attribute, negative axis."""
    _use(net, net.op("Split", _stem(net), outs=2, axis=-3, split=[2, 6]), (2, 6))


@graph(shrinks="stem.w tail0.w tail1.w tail2.w", opset=13)
def split_opset13_input_uneven(net: Net) -> None:
    """Split sizes as an input, uneven, three parts."""
    x = _stem(net, 12)
    _use(net, net.op("Split", x, net.ints(2, 4, 6), outs=3, axis=1), (2, 4, 6))


@graph(shrinks="stem.w tail0.w tail1.w", opset=13)
def split_opset13_equal(net: Net) -> None:
    """Split without sizes at opset 13: as many equal parts as outputs."""
    _use(net, net.op("Split", _stem(net), outs=2, axis=1), (4, 4))


@graph(shrinks="stem.w tail0.w tail1.w", opset=18)
def split_opset18_num_outputs(net: Net) -> None:
    """num_outputs attribute."""
    _use(net, net.op("Split", _stem(net), outs=2, axis=1, num_outputs=2), (4, 4))


@graph(shrinks="stem.w tail0.w tail1.w tail2.w", opset=18)
def split_opset18_uneven_last(net: Net) -> None:
    """num_outputs=3 of 8 channels: 3, 3, 2."""
    _use(net, net.op("Split", _stem(net), outs=3, axis=1, num_outputs=3), (3, 3, 2))


@graph(shrinks="stem.w mid.w tail0.w tail1.w", opset=13)
def split_sizes_shared(net: Net) -> None:
    """One sizes tensor for two Splits that shrink differently."""
    sizes = net.ints(3, 5, name="sizes")
    x = _stem(net)
    a, b = net.op("Split", x, sizes, outs=2, axis=1)
    y = net.relu(net.conv(x, 8, 8, name="mid"))
    c, d = net.op("Split", y, sizes, outs=2, axis=1)
    _use(net, (net.op("Mul", a, c), net.op("Mul", b, d)), (3, 5))


@graph(shrinks="stem.w m1.w cat.w", opset=13)
def c2f_block(net: Net) -> None:
    """YOLOv8 C2f: split in halves, a chain on one half, everything concatenated."""
    left, right = net.op("Split", _stem(net, 16), net.ints(8, 8), outs=2, axis=1)
    y = net.relu(net.conv(right, 8, 8, name="m1"))
    y = net.op("Add", right, net.relu(net.conv(y, 8, 8, name="m2")))
    cat = net.op("Concat", left, right, y, axis=1)
    net.head(net.relu(net.conv(cat, 24, 16, 1, name="cat")), 16)


@graph(shrinks="stem.w tail0.w", opset=13)
def split_unused_part(net: Net) -> None:
    """One of the parts is never read."""
    parts = net.op("Split", _stem(net, 12), net.ints(4, 8), outs=2, axis=1)
    _use(net, parts[:1], (4,))


@graph(shrinks="stem.w tail0.w tail1.w", opset=17)
def glu_gate(net: Net) -> None:
    """Gated linear unit over channels: halves are multiplied, so channel i pairs with i + C/2."""
    a, b = net.op("Split", net.conv(net.input((1, 3, 8, 8)), 3, 16, name="stem"), outs=2, axis=1)
    y = net.op("Mul", a, net.op("Sigmoid", b))
    _use(net, (y, net.op("Tanh", y)), (8, 8))
