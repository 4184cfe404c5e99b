"""Slice, Gather, Scatter and Pad along channels."""

from __future__ import annotations

import numpy as np

from .net import Net
from .register import graph

INT64_MAX = np.iinfo(np.int64).max
INT64_MIN = np.iinfo(np.int64).min


def _stem(net: Net, channels: int = 8) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, channels, name="stem"))


def _tail(net: Net, x: str, channels: int) -> None:
    net.output(net.conv(x, channels, 4, name="tail"))


@graph(shrinks="stem.w tail.w", opset=9)
def slice_opset9_attributes(net: Net) -> None:
    """Slice with attributes, end INT_MAX."""
    _tail(net, net.op("Slice", _stem(net), axes=[1], starts=[3], ends=[2**31 - 1]), 5)


@graph(shrinks="stem.w tail.w", opset=9)
def slice_opset9_default_axes(net: Net) -> None:
    """Slice attributes without axes: they are the first ones."""
    _tail(net, net.op("Slice", _stem(net), starts=[0, 2], ends=[1, -1]), 5)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_inputs_int64_max(net: Net) -> None:
    """Slice with inputs, end INT64_MAX."""
    bounds = (net.ints(4), net.ints(INT64_MAX), net.ints(1))
    _tail(net, net.op("Slice", _stem(net), *bounds), 4)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_negative(net: Net) -> None:
    """Negative start, end and axis."""
    bounds = (net.ints(-6), net.ints(-1), net.ints(-3))
    _tail(net, net.op("Slice", _stem(net), *bounds), 5)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_step_two(net: Net) -> None:
    """Every other channel; the others go to a second consumer."""
    x = _stem(net)
    one, two, axis, end = net.ints(1), net.ints(2), net.ints(1), net.ints(INT64_MAX)
    even = net.op("Slice", x, net.ints(0), end, axis, two)
    odd = net.op("Slice", x, one, end, axis, two)
    _tail(net, net.op("Sub", even, odd), 4)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_reversed(net: Net) -> None:
    """Step -1 down to INT64_MIN: the channels backwards, added to themselves."""
    x = _stem(net)
    back = net.op("Slice", x, net.ints(-1), net.ints(INT64_MIN), net.ints(1), net.ints(-1))
    _tail(net, net.op("Add", x, net.op("Tanh", back)), 8)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_overlapping(net: Net) -> None:
    """Two overlapping ranges of one value, concatenated."""
    x = _stem(net)
    a = net.op("Slice", x, net.ints(0), net.ints(5), net.ints(1))
    b = net.op("Slice", x, net.ints(3), net.ints(1000), net.ints(1))
    _tail(net, net.op("Concat", a, b, axis=1), 10)


@graph(shrinks="stem.w tail.w", opset=13)
def slice_spatial_focus(net: Net) -> None:
    """YOLOX Focus: four strided spatial slices concatenated on channels."""
    x = _stem(net)
    axes, steps, end = net.ints(2, 3), net.ints(2, 2), net.ints(INT64_MAX, INT64_MAX)
    parts = [
        net.op("Slice", x, net.ints(row, column), end, axes, steps)
        for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    _tail(net, net.op("Concat", *parts, axis=1), 32)


@graph(shrinks="tail.w", opset=13)
def slice_bounds_computed(net: Net) -> None:
    """Slice end computed from Shape: half of the channels."""
    x = _stem(net)
    channels = net.op("Gather", net.op("Shape", x), net.ints(1), axis=0)
    half = net.op("Div", channels, net.ints(2))
    y = net.op("Slice", x, net.ints(0), half, net.ints(1))
    z = net.op("Slice", x, half, channels, net.ints(1))
    y = net.op("Reshape", net.op("Mul", y, z), net.ints(1, 4, 8, 8))
    _tail(net, net.relu(net.conv(net.relu(net.conv(y, 4, 8, name="mid")), 8, 8)), 8)


@graph(shrinks="stem.w tail.w", opset=13)
def gather_constant_permutation(net: Net) -> None:
    """Channel permutation by a constant index vector."""
    order = net.weight(net.rng.permutation(8).astype(np.int64), "order")
    _tail(net, net.op("Gather", _stem(net), order, axis=1), 8)


@graph(shrinks="stem.w tail.w", opset=13)
def gather_repeats_and_negatives(net: Net) -> None:
    """Indices that repeat, skip and count from the end."""
    _tail(net, net.op("Gather", _stem(net), net.ints(0, -1, 2, 2, -3, 5), axis=-3), 6)


@graph(shrinks="tail.w", opset=13)
def gather_scalar_channel(net: Net) -> None:
    """One channel picked by a scalar index: the axis disappears."""
    x = _stem(net)
    plane = net.op("Gather", x, net.weight(np.array(3, np.int64)), axis=1)
    plane = net.op("Unsqueeze", plane, net.ints(1))
    _tail(net, net.relu(net.conv(net.op("Mul", x, plane), 8, 8, name="mid")), 8)


@graph(keeps="stem.w", opset=13)
def gather_data_dependent(net: Net) -> None:
    """Indices are a graph input: the channel axis must stay."""
    index = net.input((4,), "index", 7)
    x = net.op("Gather", _stem(net), index, axis=1)
    net.head(net.relu(net.conv(x, 4, 8, name="mid")), 8)


@graph(keeps="stem.w", opset=13)
def topk_over_channels(net: Net) -> None:
    """TopK over channels is data dependent."""
    values, _ = net.op("TopK", _stem(net), net.ints(4), outs=2, axis=1)
    net.head(net.relu(net.conv(values, 4, 8, name="mid")), 8)


@graph(keeps="stem.w", opset=13)
def argmax_over_channels(net: Net) -> None:
    """ArgMax over the channels names channels by number."""
    winner = net.op("ArgMax", _stem(net), axis=1, keepdims=1)
    y = net.op("Cast", winner, to=1)
    net.head(net.relu(net.conv(y, 1, 8, name="mid")), 8)


@graph(opset=16)
def scatter_nd_constant(net: Net) -> None:
    """ScatterND with constant indices overwrites channels: re-indexed or frozen."""
    x = net.op("Reshape", _stem(net), net.ints(8, 64))
    index = net.weight(np.array([[1], [6]], np.int64))
    y = net.op("ScatterND", x, index, net.weight(net.uniform(-1, 1, 2, 64)))
    _tail(net, net.op("Reshape", y, net.ints(1, 8, 8, 8)), 8)


@graph(shrinks="stem.w mid.w head.w", opset=9)
def pad_channels_attribute(net: Net) -> None:
    """ResNet option A: stride by slicing, channels zero padded at both ends (attribute form)."""
    x = _stem(net)
    y = net.conv(x, 8, 16, strides=[2, 2], name="mid")
    short = net.op("Slice", x, axes=[2, 3], starts=[0, 0], ends=[8, 8])
    short = net.op("MaxPool", short, kernel_shape=[1, 1], strides=[2, 2])
    short = net.op("Pad", short, pads=[0, 4, 0, 0, 0, 4, 0, 0], mode="constant", value=0.0)
    net.head(net.relu(net.op("Add", y, short)), 16)


@graph(shrinks="stem.w mid.w head.w", opset=13)
def pad_channels_input(net: Net) -> None:
    """The same with pads as an input, all the padding behind."""
    x = _stem(net)
    y = net.conv(x, 8, 12, 1, name="mid")
    short = net.op("Pad", x, net.ints(0, 0, 0, 0, 0, 4, 0, 0))
    net.head(net.relu(net.op("Add", y, short)), 12)


@graph(shrinks="stem.w mid.w head.w", opset=18)
def pad_channels_axes_input(net: Net) -> None:
    """Pad with the axes input of opset 18 and a non-zero constant."""
    x = _stem(net)
    y = net.conv(x, 8, 14, 1, name="mid")
    short = net.op("Pad", x, net.ints(2, 4), net.scalar(0.5), net.ints(-3))
    net.head(net.relu(net.op("Add", y, short)), 14)


@graph(shrinks="stem.w tail.w", opset=13)
def pad_negative_crops_channels(net: Net) -> None:
    """Negative pads cut channels off."""
    x = net.op("Pad", _stem(net), net.ints(0, -1, 0, 0, 0, -2, 0, 0))
    _tail(net, x, 5)


@graph(shrinks="stem.w tail.w", opset=13)
def pad_reflect_spatial(net: Net) -> None:
    """Reflection padding on the image only."""
    x = net.op("Pad", _stem(net), net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    net.output(net.conv(x, 8, 4, name="tail", pads=[0, 0, 0, 0]))


@graph(keeps="tail.w", opset=13)
def pad_reflect_channels(net: Net) -> None:
    """Reflection padding on the channel axis mirrors coordinates."""
    x = net.op("Pad", _stem(net), net.ints(0, 2, 0, 0, 0, 2, 0, 0), mode="reflect")
    y = net.conv(x, 12, 4, name="tail")
    net.output(y)
