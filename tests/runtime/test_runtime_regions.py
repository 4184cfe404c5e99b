"""Whole regions in the planar layout: branches, pooling, concatenation, gates, several outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime


@st.composite
def plans(draw: st.DrawFn) -> list[tuple[str, int, int, int]]:
    """A list of (operation, two operands among the values so far, choice)."""
    count = draw(st.integers(2, 14))
    names = ["conv", "conv", "conv3", "conv_s2", "depthwise", "dense", "add", "add", "mul", "sub",
             "relu", "silu", "concat", "maxpool", "maxpool_s2", "avgpool", "gate", "affine",
             "prelu", "parts", "ending", "shared"]  # fmt: skip
    return [
        (
            draw(st.sampled_from(names)),
            draw(st.integers(0, 99)),
            draw(st.integers(0, 99)),
            draw(st.integers(1, 12)),
        )
        for _ in range(count)
    ]


def grow(net: Net, plan: list[tuple[str, int, int, int]]) -> list[str]:
    """Apply a plan; values remember (name, channels, halvings); returns names of dead ends."""
    values: list[tuple[str, int, int]] = [("x", 5, 0)]
    used: set[str] = set()
    for op, i, j, c in plan:
        name, channels, level = values[i % len(values)]
        partners = [v for v in values if v[2] == level]
        other, other_channels, _ = partners[j % len(partners)]

        def conv(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1,
                 groups: int = 1, sparsity: float = 0.8) -> str:  # fmt: skip
            weight = net.weight(outputs, inputs // groups, kernel, kernel, sparsity=sparsity)
            return net.add("Conv", x, weight, net.vector(outputs), group=groups,
                           strides=[stride, stride], pads=[kernel // 2] * 4)  # fmt: skip

        used.add(name)
        if op == "conv":
            values.append((conv(name, channels, c, 1), c, level))
        elif op == "conv3":
            values.append((conv(name, channels, c, 3), c, level))
        elif op == "conv_s2":
            values.append((conv(name, channels, c, 3 if j % 2 else 1, 2), c, level + 1))
        elif op == "dense":
            values.append((conv(name, channels, c, 3, sparsity=0.0), c, level))
        elif op == "depthwise":
            values.append((conv(name, channels, channels, 3, groups=channels), channels, level))
        elif op in ("add", "mul", "sub"):
            if other_channels != channels:
                used.add(other)
                other = conv(other, other_channels, channels, 1)
            used.add(other)
            node = {"add": "Add", "mul": "Mul", "sub": "Sub"}[op]
            values.append((net.add(node, name, other), channels, level))
        elif op == "relu":
            values.append((net.add("Relu", name), channels, level))
        elif op == "silu":
            values.append((net.add("Mul", name, net.add("Sigmoid", name)), channels, level))
        elif op == "concat":
            used.add(other)
            joined = net.add("Concat", name, other, axis=1)
            values.append((joined, channels + other_channels, level))
        elif op == "maxpool":
            y = net.add("MaxPool", name, kernel_shape=[3, 3], pads=[1] * 4)
            values.append((y, channels, level))
        elif op == "maxpool_s2":
            y = net.add("MaxPool", name, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
            values.append((y, channels, level + 1))
        elif op == "avgpool":
            y = net.add("AveragePool", name, kernel_shape=[3, 3], pads=[1] * 4,
                        count_include_pad=c % 2)  # fmt: skip
            values.append((y, channels, level))
        elif op == "gate":
            pooled = net.add("GlobalAveragePool", name)
            hidden = net.add("Relu", conv(pooled, channels, c, 1))
            gate = net.add("Sigmoid", conv(hidden, c, channels, 1))
            values.append((net.add("Mul", name, gate), channels, level))
        elif op == "affine":
            scale = net.constant(net.rng.standard_normal((channels, 1, 1)).astype(np.float32))
            values.append((net.add("Mul", name, scale), channels, level))
        elif op == "prelu":
            slope = net.constant(net.rng.standard_normal((channels, 1, 1)).astype(np.float32))
            values.append((net.add("PRelu", name, slope), channels, level))
        elif op == "parts" and channels > 1:
            first = 1 + c % (channels - 1)
            sizes = net.constant(np.array([first, channels - first], np.int64))
            both = [f"v{len(net.nodes)}", f"v{len(net.nodes)}_rest"]
            net.nodes.append(helper.make_node("Split", [name, sizes], both, axis=1))
            values += [(both[0], first, level), (both[1], channels - first, level)]
        elif op == "ending":
            rest = net.constant(np.array([max(0, channels - 1 - c)], np.int64))
            one = net.constant(np.array([1], np.int64))
            sliced = net.add("Slice", name, rest, net.constant(np.array([99], np.int64)), one)
            values.append((sliced, min(channels, 1 + c), level))
        else:  # two readers of one value
            a, b = conv(name, channels, c, 1), conv(name, channels, c, 3)
            values.append((net.add("Add", a, b), c, level))
    return [name for name, _, _ in values[1:] if name not in used]


@settings(max_examples=120)
@given(
    plan=plans(),
    size=st.integers(1, 14),
    batch=st.integers(1, 2),
    dynamic=st.booleans(),
    threads=st.sampled_from([1, 2]),
)
def test_any_network(
    plan: list[tuple[str, int, int, int]], size: int, batch: int, dynamic: bool, threads: int
) -> None:
    net = Net(len(plan))
    net.input("x", ["n", 5, "s", "s"] if dynamic else [batch, 5, size, size])
    outputs = grow(net, plan)
    shapes = [[batch, 5, size, size]]
    if dynamic:
        shapes += [[batch + 1, 5, size, size], [1, 5, size + 6, size + 6]]
    feeds = [feed(net.rng, {"x": s}) for s in shapes]
    # Chains of products grow errors; the scale of one convolution is not theirs.
    compare(net.model(*outputs), feeds, force=True, threads=threads, reduction=64 * 1024)


def residual_network(net: Net, x: str, blocks: int = 2) -> str:
    """A small ResNet: strides, shortcuts, pooling, classifier."""

    def conv(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        weight = net.weight(outputs, inputs, kernel, kernel, sparsity=0.9)
        return net.add("Conv", x, weight, net.vector(outputs), strides=[stride, stride],
                       pads=[kernel // 2] * 4)  # fmt: skip

    x = net.add("Relu", conv(x, 3, 16, 7, 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 16
    for stage, width in enumerate((16, 32)):
        for block in range(blocks):
            stride = 2 if block == 0 and stage else 1
            y = net.add("Relu", conv(x, inputs, width, 1))
            y = net.add("Relu", conv(y, width, width, 3, stride))
            y = conv(y, width, 2 * width, 1)
            shortcut = conv(x, inputs, 2 * width, 1, stride) if block == 0 else x
            x = net.add("Relu", net.add("Add", y, shortcut))
            inputs = 2 * width
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.add("Gemm", x, net.weight(10, inputs), net.vector(10), transB=1)


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_residual_network_is_one_region(isa: str, threads: int) -> None:
    net = Net()
    y = residual_network(net, net.input("x", ["n", 3, "h", "w"]))
    shapes = [[1, 3, 64, 64], [3, 3, 64, 64], [2, 3, 45, 71]]
    feeds = [feed(net.rng, {"x": s}) for s in shapes]
    session = compare(net.model(y), feeds, force=True, isa=isa, threads=threads, reduction=2048)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
def test_a_mobile_network_is_one_region(isa: str) -> None:
    """Depth-wise windows of both strides read plain planes; a mean may drop the axes it is over."""
    net = Net()
    x = net.input("x", ["n", 3, "h", "w"])
    low, high = (net.constant(np.float32(v)) for v in (0, 6))

    def relu6(x: str) -> str:
        return net.add("Clip", x, low, high)

    def conv(x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        dense = inputs == 1 or inputs == 3
        groups = outputs if inputs == 1 else 1
        weight = net.weight(outputs, inputs, kernel, kernel, sparsity=0.0 if dense else 0.8)
        return net.add("Conv", x, weight, net.vector(outputs), strides=[stride, stride],
                       pads=[kernel // 2] * 4, group=groups)  # fmt: skip

    x = relu6(conv(x, 3, 8, 3, 2))
    for stride, kernel in ((1, 3), (2, 3), (2, 5)):
        y = relu6(conv(x, 8, 24))
        y = conv(relu6(conv(y, 1, 24, kernel, stride)), 24, 8)
        x = net.add("Add", x, y) if stride == 1 else y
    y = net.add("Gemm", net.add("ReduceMean", x, axes=[2, 3], keepdims=0), net.weight(10, 8),
                net.vector(10), transB=1)  # fmt: skip
    feeds = [feed(net.rng, {"x": s}) for s in ([1, 3, 64, 64], [3, 3, 45, 71], [1, 3, 200, 40])]
    session = compare(net.model(y), feeds, force=True, isa=isa)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
def test_pixels_that_nobody_reads_are_not_computed(isa: str) -> None:
    """Stages that begin with strided 1x1 convolutions (He et al., 2016), shortcuts included."""
    net = Net()

    def conv(x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> str:
        return net.add("Conv", x, net.weight(outputs, inputs, kernel, kernel), net.vector(outputs),
                       strides=[stride, stride], pads=[kernel // 2] * 4)  # fmt: skip

    x = net.input("x", [1, 8, 21, 30])
    for stride, inputs, outputs in ((1, 8, 8), (1, 8, 8), (2, 8, 16), (1, 16, 16), (2, 16, 16)):
        y = net.add("Relu", conv(x, inputs, 8, 1, stride))
        y = conv(net.add("Relu", conv(y, 8, 8, 3)), 8, outputs)
        shortcut = x if stride == 1 else conv(x, inputs, outputs, 1, stride)
        x = net.add("Relu", net.add("Add", y, shortcut))
    model = net.model(x)
    feeds = [feed(net.rng, {"x": [1, 8, 21, 30]})]
    session = compare(model, feeds, force=True, isa=isa, profile=True)
    assert all(d.claimed for d in runtime.explain(session))
    steps = {s.step for s in runtime.profile(session)}
    assert sum(s.startswith("what is read for") for s in steps) == 2


def test_regions_can_be_switched_off() -> None:
    net = Net()
    y = residual_network(net, net.input("x", [1, 3, 64, 64]))
    feeds = [feed(net.rng, {"x": [1, 3, 64, 64]})]
    session = compare(net.model(y), feeds, force=True, regions=False, reduction=2048)
    decisions = runtime.explain(session)
    weighted = [d for d in decisions if d.op in ("Conv", "Gemm")]
    assert all(d.claimed for d in weighted)
    assert len({d.group for d in weighted}) == len(weighted)
    assert not any(d.claimed for d in decisions if d.op in ("MaxPool", "GlobalAveragePool"))


def test_a_region_is_never_entered_twice() -> None:
    """A node that cannot be claimed between two that can splits them: no cycle."""
    net = Net()
    x = net.input("x", [1, 8, 12, 12])
    a = net.add("Conv", x, net.weight(8, 8, 1, 1))
    outside = net.add("Softmax", a, axis=1)
    y = net.add("Add", net.add("Conv", a, net.weight(8, 8, 1, 1)), outside)
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 8, 12, 12]})], force=True)
    assert "Softmax" not in claimed_ops(session)
    assert claimed_ops(session).count("Conv") == 2


def test_values_inside_that_are_also_outputs() -> None:
    net = Net()
    x = net.input("x", [1, 8, 12, 12])
    a = net.add("Conv", x, net.weight(8, 8, 3, 3), pads=[1] * 4)
    b = net.add("Relu", a)
    c = net.add("Conv", b, net.weight(8, 8, 1, 1))
    d = net.add("Concat", a, c, axis=1)
    model = net.model(a, b, c, d)
    session = compare(model, [feed(net.rng, {"x": [1, 8, 12, 12]})], force=True)
    assert set(claimed_ops(session)) == {"Conv", "Relu", "Concat"}


def test_values_read_by_a_subgraph_stay_visible() -> None:
    """A value that only an If body reads has no reader in the main graph."""
    from onnx import TensorProto

    net = Net()
    x = net.input("x", [1, 8, 6, 6])
    net.input("flag", [], TensorProto.BOOL)
    a = net.add("Conv", x, net.weight(8, 8, 1, 1))
    b = net.add("Relu", a)
    c = net.add("Conv", b, net.weight(8, 8, 1, 1))

    def branch(op: str) -> Any:
        out = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [a], [f"{op}_out"])], op, [], [out])

    y = net.add("If", "flag", then_branch=branch("Neg"), else_branch=branch("Abs"))
    feeds = [
        {**feed(net.rng, {"x": [1, 8, 6, 6]}), "flag": np.array(flag)} for flag in (True, False)
    ]
    session = compare(net.model(c, y), feeds, force=True)
    assert claimed_ops(session).count("Conv") == 2


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pooling_that_rounds_up_is_left_alone(op: str) -> None:
    net = Net()
    x = net.input("x", [1, 8, 10, 10])
    a = net.add("Conv", x, net.weight(8, 8, 1, 1))
    y = net.add(op, a, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 8, 10, 10]})], force=True)
    assert claimed_ops(session) == ["Conv"]


@pytest.mark.parametrize("kernel", [[5, 5], [13, 9], [4, 7], [1, 17]])
@pytest.mark.parametrize("stride", [[1, 1], [2, 3]])
def test_large_maximum_windows(kernel: list[int], stride: list[int]) -> None:
    net = Net()
    x = net.input("x", [2, 4, 15, 21])
    a = net.add("Conv", x, net.weight(5, 4, 1, 1), net.vector(5))
    pads = [(k - 1) // 2 for k in kernel] + [k // 2 for k in kernel]
    y = net.add("MaxPool", a, kernel_shape=kernel, strides=stride, pads=pads)
    session = compare(net.model(y), [feed(net.rng, {"x": [2, 4, 15, 21]})], force=True)
    assert claimed_ops(session) == ["Conv", "MaxPool"]


def test_flatten_of_an_image() -> None:
    net = Net()
    x = net.input("x", ["n", 4, 6, 5])
    a = net.add("Relu", net.add("Conv", x, net.weight(6, 4, 3, 3), pads=[1] * 4))
    flat = net.add("Flatten", a)
    y = net.add("Gemm", flat, net.weight(7, 6 * 6 * 5), net.vector(7), transB=1)
    feeds = [feed(net.rng, {"x": [n, 4, 6, 5]}) for n in (1, 3)]
    session = compare(net.model(y), feeds, force=True, reduction=180)
    assert claimed_ops(session) == ["Conv", "Relu", "Flatten", "Gemm"]
