"""Reshape, Flatten, Squeeze and computed shapes."""

from __future__ import annotations

import numpy as np

from .net import Net
from .register import graph


def _stem(net: Net, dims: tuple[int | str, ...] = (1, 3, 8, 8), channels: int = 8) -> str:
    return net.relu(net.conv(net.input(dims), 3, channels, name="stem"))


@graph(shrinks="stem.w stem.b fc.w", keeps="fc.b")
def reshape_zero_minus_one(net: Net) -> None:
    """Flatten spelled as Reshape [0, -1]."""
    x = net.op("Reshape", _stem(net), net.ints(0, -1))
    net.output(net.gemm(x, 8 * 64, 5, name="fc", transB=1))


@graph(shrinks="stem.w fc.w", other={"batch": 3})
def reshape_minus_one_first(net: Net) -> None:
    """Reshape [-1, C*H*W]: the size constant holds the channels, dynamic batch."""
    x = net.op("Reshape", _stem(net, ("batch", 3, 8, 8)), net.ints(-1, 512))
    net.output(net.gemm(x, 512, 5, name="fc"))


@graph(shrinks="stem.w tail.w")
def reshape_minus_one_hides_channels(net: Net) -> None:
    """[1, -1, 8, 8] would silently take any channel count; [1, C, 64] would not."""
    x = net.op("Reshape", _stem(net), net.ints(1, 8, 64))
    x = net.op("Reshape", x, net.ints(1, -1, 8, 8))
    net.output(net.conv(x, 8, 4, name="tail"))


@graph(shrinks="stem.w fc.w", opset=14)
def reshape_allowzero(net: Net) -> None:
    """allowzero=1 with no zero in the shape: 0 would mean zero, not copy."""
    x = net.op("Reshape", _stem(net), net.ints(1, 512), allowzero=1)
    net.output(net.gemm(x, 512, 5, name="fc"))


@graph(shrinks="stem.w mid.w fc1.w fc2.w")
def reshape_shared_shape_tensor(net: Net) -> None:
    """One int64 tensor feeds two Reshapes of streams that shrink differently."""
    shape = net.ints(1, 512, name="shared_shape")
    a = _stem(net)
    b = net.relu(net.conv(a, 8, 8, name="mid"))
    left = net.gemm(net.op("Reshape", a, shape), 512, 5, name="fc1")
    right = net.gemm(net.op("Reshape", b, shape), 512, 5, name="fc2")
    net.output(net.op("Add", left, right))


@graph(shrinks="stem.w tail.w", keeps="fixed")
def reshape_shape_shared_with_data(net: Net) -> None:
    """The shape tensor is also read as data and by a Reshape that must not change."""
    shape = net.ints(1, 8, 64, name="fixed")
    a = net.op("Reshape", net.op("Reshape", _stem(net), shape), net.ints(1, -1, 8, 8))
    b = net.op("Reshape", net.input((512,), "y"), shape)
    total = net.op("ReduceSum", net.op("Cast", shape, to=1), net.ints(0), keepdims=1)
    net.output(net.conv(a, 8, 4, name="tail"))
    net.output(net.op("Add", b, total))


@graph(shrinks="stem.w fc.w", other={"batch": 2})
def shape_gather_concat(net: Net) -> None:
    """view(x.size(0), -1): Shape -> Gather -> Unsqueeze -> Concat -> Reshape."""
    x = _stem(net, ("batch", 3, 8, 8))
    batch = net.op("Gather", net.op("Shape", x), net.weight(np.array(0, np.int64)), axis=0)
    rows = net.op("Unsqueeze", batch, net.ints(0))
    shape = net.op("Concat", rows, net.ints(-1), axis=0)
    net.output(net.gemm(net.op("Reshape", x, shape), 512, 5, name="fc"), ("batch", 5))


@graph(shrinks="stem.w fc.w", other={"batch": 2, "height": 16, "width": 12})
def shape_all_dims_computed(net: Net) -> None:
    """Channels and sizes both come from Shape; channels are divided by two and put back."""
    x = _stem(net, ("batch", 3, "height", "width"))
    shape = net.op("Shape", x)
    dims = [net.op("Gather", shape, net.ints(axis), axis=0) for axis in range(4)]
    half = net.op("Div", dims[1], net.ints(2))
    split = net.op("Concat", dims[0], net.ints(2), half, dims[2], dims[3], axis=0)
    y = net.op("Transpose", net.op("Reshape", x, split), perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, net.op("Concat", *dims, axis=0))
    y = net.op("GlobalAveragePool", y)
    net.output(net.gemm(net.op("Flatten", y), 8, 5, name="fc"), ("batch", 5))


@graph(shrinks="stem.w tail.w", opset=15)
def shape_start_end(net: Net) -> None:
    """Shape with start/end attributes (opset 15) rebuilds the spatial part."""
    x = _stem(net)
    space = net.op("Shape", x, start=2, end=4)
    flat = net.op("Reshape", x, net.ints(0, 8, -1))
    back = net.op("Reshape", flat, net.op("Concat", net.ints(0), net.ints(-1), space, axis=0))
    net.output(net.conv(back, 8, 4, name="tail"))


@graph(shrinks="stem.w fc.w")
def squeeze_unsqueeze_forms(net: Net) -> None:
    """Global pool, Squeeze, Unsqueeze and Squeeze again, with axes inputs."""
    x = net.op("GlobalAveragePool", _stem(net))
    x = net.op("Squeeze", x, net.ints(2, 3))
    x = net.op("Unsqueeze", x, net.ints(-1))
    x = net.op("Squeeze", x, net.ints(2))
    net.output(net.gemm(x, 8, 5, name="fc"))


@graph(shrinks="stem.w fc.w", opset=11)
def squeeze_attribute_form(net: Net) -> None:
    """Squeeze / Unsqueeze with axes attributes (before opset 13), and Squeeze of all ones."""
    x = net.op("GlobalAveragePool", _stem(net))
    x = net.op("Squeeze", x)
    x = net.op("Unsqueeze", x, axes=[0])
    net.output(net.gemm(x, 8, 5, name="fc"))


@graph(shrinks="stem.w fc.w", keeps="fc.b")
def flatten_nchw_gemm_transb(net: Net) -> None:
    """Flatten with H*W weights per channel; transB, alpha, beta."""
    x = net.op("Flatten", _stem(net))
    net.output(net.gemm(x, 512, 5, name="fc", transB=1, alpha=0.5, beta=2.0))


@graph(shrinks="stem.w fc.w")
def flatten_nhwc_gemm(net: Net) -> None:
    """Flatten after a transpose to NHWC: channel is the fastest axis."""
    x = net.op("Flatten", net.op("Transpose", _stem(net), perm=[0, 2, 3, 1]))
    net.output(net.gemm(x, 512, 5, name="fc"))


@graph(shrinks="stem.w fc.w fc2.w", opset=13)
def flatten_axis_negative(net: Net) -> None:
    """Flatten axis=-3 of a 4-D tensor, then Gemm with a broadcast scalar C and transA."""
    x = net.op("Flatten", _stem(net), axis=-3)
    hidden = net.relu(net.gemm(x, 512, 12, name="fc"))
    turned = net.op("Transpose", hidden, perm=[1, 0])
    weight = net.weight(net.normal(12, 5, fan_in=12), "fc2.w")
    net.output(net.op("Gemm", turned, weight, net.scalar(0.25), transA=1))


@graph(shrinks="stem.w fc.w fc2.w")
def matmul_add_hidden(net: Net) -> None:
    """MatMul + Add with the bias on either side, 3-D batch."""
    x = net.op("Reshape", _stem(net), net.ints(1, 8, 64))
    x = net.op("Transpose", x, perm=[0, 2, 1])
    w1 = net.weight(net.normal(8, 16, fan_in=8), "fc.w")
    x = net.op("Add", net.weight(net.uniform(-1, 1, 16), "fc.b"), net.op("MatMul", x, w1))
    w2 = net.weight(net.normal(16, 6, fan_in=16), "fc2.w")
    net.output(net.op("MatMul", net.relu(x), w2))


@graph(keeps="stem.w tail.w")
def reshape_merges_channel_and_batch(net: Net) -> None:
    """[N, C, H, W] -> [N*C, 1, H, W]: channels become the output's batch."""
    x = net.op("Reshape", _stem(net), net.ints(-1, 1, 8, 8))
    y = net.conv(x, 1, 4, name="tail")
    net.output(net.op("ReduceMean", y, axes=[2, 3], keepdims=0))
