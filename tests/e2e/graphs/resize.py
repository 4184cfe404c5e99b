"""Pooling, reductions, Resize and Upsample in their many forms."""

from __future__ import annotations

import numpy as np

from .net import Net
from .register import graph


def _stem(net: Net) -> str:
    return net.relu(net.conv(net.input((1, 3, 8, 8)), 3, 8, name="stem"))


def _tail(net: Net, x: str) -> None:
    net.output(net.conv(x, 8, 4, name="tail"))


def _floats(net: Net, *values: float) -> str:
    return net.weight(np.array(values, np.float32))


@graph(shrinks="stem.w tail.w", opset=7)
def upsample_opset7(net: Net) -> None:
    """Upsample with a scales attribute."""
    _tail(net, net.op("Upsample", _stem(net), scales=[1.0, 1.0, 2.0, 2.0], mode="nearest"))


@graph(shrinks="stem.w tail.w", opset=9)
def upsample_opset9(net: Net) -> None:
    """Upsample with a scales input."""
    _tail(net, net.op("Upsample", _stem(net), _floats(net, 1, 1, 2, 2), mode="linear"))


@graph(shrinks="stem.w tail.w", opset=10)
def resize_opset10(net: Net) -> None:
    """Resize 10: X, scales."""
    _tail(net, net.op("Resize", _stem(net), _floats(net, 1, 1, 2, 2), mode="nearest"))


@graph(shrinks="stem.w tail.w", opset=11)
def resize_opset11_sizes(net: Net) -> None:
    """Resize 11 with roi, empty scales and sizes that contain the channels."""
    roi, scales = _floats(net), _floats(net)
    x = net.op("Resize", _stem(net), roi, scales, net.ints(1, 8, 12, 12), mode="linear")
    _tail(net, x)


@graph(shrinks="stem.w tail.w", opset=13)
def resize_opset13_scales(net: Net) -> None:
    """Resize 13 with the optional inputs left empty."""
    x = net.op("Resize", _stem(net), "", _floats(net, 1, 1, 0.5, 2), mode="cubic")
    _tail(net, x)


@graph(shrinks="stem.w mid.w tail.w", opset=13)
def resize_sizes_shared(net: Net) -> None:
    """One sizes tensor, containing C, for two Resizes of streams that shrink differently."""
    sizes = net.ints(1, 8, 16, 16, name="sizes")
    x = _stem(net)
    y = net.relu(net.conv(x, 8, 8, name="mid"))
    a = net.op("Resize", x, "", "", sizes, mode="nearest")
    b = net.op("Resize", y, "", "", sizes, mode="nearest")
    net.output(net.conv(net.op("Concat", a, b, axis=1), 16, 4, name="tail"))


@graph(shrinks="stem.w tail.w", opset=18)
def resize_opset18_axes(net: Net) -> None:
    """Resize 18 with axes: sizes without the channels, keep_aspect_ratio_policy."""
    sizes = net.ints(12, 16)
    policy = "not_larger"
    x = net.op(
        "Resize",
        _stem(net),
        "",
        "",
        sizes,
        mode="linear",
        axes=[2, 3],
        keep_aspect_ratio_policy=policy,
    )
    _tail(net, x)


@graph(shrinks="stem.w mid.w tail.w", opset=13, other={"height": 12, "width": 16})
def resize_to_other_stream(net: Net) -> None:
    """FPN: upsample to the size of another map; sizes = Concat(Shape[:2], Shape(other)[2:])."""
    x = net.relu(net.conv(net.input((1, 3, "height", "width")), 3, 8, name="stem"))
    low = net.relu(net.conv(x, 8, 8, name="mid", strides=[2, 2]))
    head = net.op("Slice", net.op("Shape", low), net.ints(0), net.ints(2), net.ints(0))
    tail = net.op("Slice", net.op("Shape", x), net.ints(2), net.ints(4), net.ints(0))
    up = net.op("Resize", low, "", "", net.op("Concat", head, tail, axis=0), mode="nearest")
    _tail(net, net.op("Add", x, up))


@graph(keeps="stem.w", opset=13)
def resize_scales_channels(net: Net) -> None:
    """A Resize that scales the channel axis itself."""
    x = net.op("Resize", _stem(net), "", _floats(net, 1, 2, 1, 1), mode="nearest")
    net.output(net.conv(x, 16, 4, name="tail"))


@graph(shrinks="stem.w tail.w")
def pools_of_all_kinds(net: Net) -> None:
    """MaxPool with ceil_mode, AveragePool with count_include_pad, LpPool."""
    x = net.op("MaxPool", _stem(net), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    _tail(net, net.op("LpPool", x, kernel_shape=[2, 2], p=2))


@graph(shrinks="stem.w tail.w")
def global_pools(net: Net) -> None:
    """GlobalMaxPool and GlobalAveragePool, concatenated (catavgmax)."""
    x = _stem(net)
    both = net.op("Concat", net.op("GlobalAveragePool", x), net.op("GlobalMaxPool", x), axis=1)
    net.output(net.gemm(net.op("Flatten", both), 16, 5, name="tail"))


@graph(shrinks="mid.w tail.w", opset=13)
def max_pool_indices_unpool(net: Net) -> None:
    """SegNet: MaxPool indices feed MaxUnpool; flat indices contain the channel number."""
    x = _stem(net)
    pooled, index = net.op("MaxPool", x, outs=2, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("MaxUnpool", pooled, index, kernel_shape=[2, 2], strides=[2, 2])
    y = net.relu(net.conv(net.relu(net.conv(x, 8, 8, name="mid")), 8, 8, name="stem2"))
    _tail(net, y)


@graph(shrinks="stem.w tail.w", opset=13)
def reduce_mean_attribute_keepdims(net: Net) -> None:
    """ReduceMean keepdims=1 with axes attribute, then Squeeze."""
    x = net.op("ReduceMean", _stem(net), axes=[-1, -2], keepdims=1)
    x = net.op("Squeeze", x, net.ints(2, 3))
    net.output(net.gemm(x, 8, 5, name="tail"))


@graph(shrinks="stem.w tail.w", opset=18)
def reduce_mean_input_no_keepdims(net: Net) -> None:
    """ReduceMean 18 with axes input, keepdims=0."""
    x = net.op("ReduceMean", _stem(net), net.ints(3, 2), keepdims=0)
    net.output(net.gemm(x, 8, 5, name="tail"))


@graph(shrinks="stem.w tail.w", opset=18)
def reductions_over_space(net: Net) -> None:
    """ReduceL2, ReduceMax, ReduceSum over space, added."""
    x = _stem(net)
    axes = net.ints(2, 3)
    total = net.op("ReduceL2", x, axes, keepdims=0)
    total = net.op("Add", total, net.op("ReduceMax", x, axes, keepdims=0))
    total = net.op("Add", total, net.op("ReduceSum", x, axes, keepdims=0))
    net.output(net.gemm(total, 8, 5, name="tail"))


@graph(shrinks="mid.w head.w", opset=18)
def reduce_over_everything(net: Net) -> None:
    """ReduceMean without axes reduces all of them."""
    x = _stem(net)
    level = net.op("ReduceMean", x, keepdims=1)
    y = net.relu(net.conv(net.op("Sub", x, level), 8, 12, name="mid"))
    net.head(y, 12)


@graph(shrinks="stem.w tail.w", opset=18)
def reduce_noop_with_empty_axes(net: Net) -> None:
    """noop_with_empty_axes=1 and no axes: the identity."""
    _tail(net, net.op("ReduceMean", _stem(net), noop_with_empty_axes=1))


@graph(shrinks="stem.w tail.w", opset=16)
def grid_sample(net: Net) -> None:
    """GridSample warps space, channels pass through."""
    grid = net.weight(net.uniform(-1, 1, 1, 6, 6, 2), "grid")
    _tail(net, net.op("GridSample", _stem(net), grid, mode="bilinear"))
