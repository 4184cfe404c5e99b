"""Two operands of different shapes, known before or only when there is an input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_graphs import Net, assert_close, compare, feed
from test_runtime_context import compile_to

from onnxprune import formats, runtime


def conv(net: Net, x: str, inputs: int, outputs: int, kernel: int = 1) -> str:
    weight = net.weight(outputs, inputs, kernel, kernel)
    return net.add("Conv", x, weight, net.vector(outputs), pads=[kernel // 2] * 4)


def groups(session: Any) -> list[int]:
    """Groups of all nodes; every node must be claimed."""
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions), [(d.node, d.reason) for d in decisions]
    return sorted({d.group for d in decisions})


@st.composite
def pairs(draw: st.DrawFn) -> dict[str, Any]:
    whole = [draw(st.sampled_from([1, 2, 5, 16])), *[draw(st.integers(1, 19)) for _ in range(2)]]
    sides = [draw(st.sampled_from(["both", "both", "left", "right"])) for _ in whole]
    return {
        "op": draw(st.sampled_from(["Add", "Sub", "Mul", "Div"])),
        "left": [1 if s == "right" else n for n, s in zip(whole, sides, strict=True)],
        "right": [1 if s == "left" else n for n, s in zip(whole, sides, strict=True)],
        "behind": draw(st.sampled_from(["", "Relu", "Sigmoid", "conv"])),
        "sources": draw(st.sampled_from(["conv", "input", "relu"])),
        "dynamic": draw(st.booleans()),
        "batch": draw(st.integers(1, 2)),
        "threads": draw(st.integers(1, 2)),
        "isa": draw(st.sampled_from(["auto", "avx2", "scalar"])),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=250, deadline=None)
@given(pairs())
def test_any_pair_of_images(c: dict[str, Any]) -> None:
    """Channels, rows and columns of one count for all of the other, whichever and of whatever."""
    net = Net(c["seed"])
    shapes = {n: [c["batch"], *c[s]] for n, s in (("x", "left"), ("y", "right"))}
    operands = []
    for name, shape in shapes.items():
        dims = ["n", shape[1], name + "h", name + "w"] if c["dynamic"] else shape
        v = net.input(name, dims)
        # A divisor has other numbers than the sums of a layer, which come near to zero.
        if c["sources"] != "input" and (name == "x" or c["op"] != "Div"):
            v = conv(net, v, shape[1], shape[1], 3)
            v = net.add("Relu", v) if c["sources"] == "relu" else v
        elif c["op"] == "Div" and name == "y":
            v = net.add("Sigmoid", v)
        operands.append(v)
    y = net.add(c["op"], *operands)
    channels = max(c["left"][0], c["right"][0])
    if c["behind"] == "conv":
        y = conv(net, net.add("Relu", y), channels, 3, 3)
    elif c["behind"]:
        y = net.add(c["behind"], y)
    y = conv(net, y, 3 if c["behind"] == "conv" else channels, 2)
    feeds = [feed(net.rng, shapes)]
    if c["dynamic"]:
        for sizes in ([4, 17], [1, 1]):
            feeds.append(feed(net.rng, {n: [1, s[1], *sizes] for n, s in shapes.items()}))
            feeds.append(feed(net.rng, {"x": [2, c["left"][0], *sizes],
                                        "y": [2, c["right"][0], 4, 17]}))  # fmt: skip
    session = compare(net.model(y), feeds, force=True, threads=c["threads"], isa=c["isa"])
    assert len(groups(session)) == 1


@pytest.mark.parametrize("residual", ["sum", "relu", "sum of relu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_sum_that_may_be_part_of_a_convolution(residual: str, stride: int) -> None:
    """It is where sizes turn out to be equal; others are computed apart, in the same session."""
    net = Net()
    a = conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 6, 3)
    b = net.input("y", ["n", 6, "k", "l"])
    if residual == "sum of relu":
        a = net.add("Relu", a)
    y = net.add("Add", a, b)
    if residual == "relu":
        y = net.add("Relu", y)
    weight = net.weight(4, 6, 1, 1)
    outputs = [net.add("Conv", y, weight, strides=[stride, stride])]
    if stride == 2:
        outputs.append(net.add("Conv", y, net.weight(3, 6, 1, 1), strides=[2, 2]))
    sizes = [((9, 20), (9, 20)), ((9, 20), (1, 1)), ((1, 1), (9, 20)), ((9, 1), (1, 20)),
             ((1, 20), (9, 20)), ((1, 1), (1, 1)), ((9, 20), (9, 20))]  # fmt: skip
    feeds = [feed(net.rng, {"x": [2, 3, *x], "y": [2, 6, *y]}) for x, y in sizes]
    model = net.model(*outputs)
    for options in ({"force": True}, {"force": True, "isa": "scalar"}, {"timing": False}):
        session = compare(model, feeds, **options)
    session = compare(model, feeds, force=True, profile=True)
    assert len(groups(session)) == 1
    kernels = {step.kernel for step in runtime.profile(session)}
    assert "broadcast_planes" in kernels
    assert "binary_planes" not in kernels
    for x, y in [((9, 20), (8, 20)), ((9, 20), (9, 2)), ((2, 1), (3, 1))]:
        given = feed(net.rng, {"x": [2, 3, *x], "y": [2, 6, *y]})
        for provider in ({"provider": "cpu"}, {"force": True}):
            with pytest.raises(Exception, match="ONNXRuntimeError"):
                runtime.session(model.SerializeToString(), 1, **provider).run(None, given)
    compare(model, feeds, force=True)


def pyramid(net: Net) -> str:
    """Lateral sums of feature maps brought to twice their size (Lin et al., 2017)."""
    x = net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))
    levels = [x]
    for _ in range(2):
        pooled = net.add("MaxPool", levels[-1], kernel_shape=[2, 2], strides=[2, 2])
        levels.append(net.add("Relu", conv(net, pooled, 8, 8, 3)))
    top = conv(net, levels[-1], 8, 8)
    for level in reversed(levels[:-1]):
        scales = net.constant(np.array([1, 1, 2, 2], np.float32))
        up = net.add("Resize", top, "", scales, mode="nearest", nearest_mode="floor",
                     coordinate_transformation_mode="asymmetric")  # fmt: skip
        top = net.add("Relu", conv(net, net.add("Add", conv(net, level, 8, 8), up), 8, 8, 3))
    return top


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", [{"force": True}, {"force": True, "isa": "avx2"},
                                     {"force": True, "isa": "scalar"}, {}])  # fmt: skip
def test_a_feature_pyramid_of_any_size_is_one_region(options: dict[str, Any], packed: bool) -> None:
    net = Net()
    model = net.model(pyramid(net))
    if packed:
        held = ir.from_proto(model)
        formats.convert_model(held, "csr")
        model = ir.to_proto(held)
    feeds = [feed(net.rng, {"x": [n, 3, h, w]}) for n, h, w in
             [(1, 64, 32), (2, 16, 12), (1, 4, 4), (1, 128, 96)]]  # fmt: skip
    session = compare(model, feeds, **options)
    if options:
        assert len(groups(session)) == 1
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session.run(None, feed(net.rng, {"x": [1, 3, 64, 34]}))
    compare(model, feeds, **options)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
@pytest.mark.parametrize("op", ["Mul", "Add"])
def test_attention_of_channels_places_and_coordinates(dynamic: bool, isa: str, op: str) -> None:
    """Squeeze and excitation (Hu et al.), CBAM (Woo et al.), coordinate attention (Hou et al.)."""
    net = Net()
    sizes = [12, 20]
    x = net.input("x", ["n", 3, "h", "w"] if dynamic else [2, 3, *sizes])
    x = net.add("Relu", conv(net, x, 3, 8, 3))
    squeezed = net.add("Relu", conv(net, net.add("GlobalAveragePool", x), 8, 4))
    x = net.add(op, net.add("Sigmoid", conv(net, squeezed, 4, 8)), x)
    x = net.add(op, x, net.add("Sigmoid", conv(net, x, 8, 1, 3)))
    # Means along one axis, as an input: pooling with a window as wide as the image needs its size.
    rows = net.input("rows", ["n", 8, "h", 1] if dynamic else [2, 8, sizes[0], 1])
    columns = net.input("columns", ["n", 8, 1, "w"] if dynamic else [2, 8, 1, sizes[1]])
    gates = [net.add("Sigmoid", conv(net, v, 8, 8)) for v in (rows, columns)]
    y = conv(net, net.add(op, x, net.add(op, *gates)), 8, 4)
    shapes = [(2, *sizes)] + ([(1, 7, 5), (1, 1, 9), (2, 33, 1)] if dynamic else [])
    feeds = [feed(net.rng, {"x": [n, 3, h, w], "rows": [n, 8, h, 1], "columns": [n, 8, 1, w]})
             for n, h, w in shapes]  # fmt: skip
    session = compare(net.model(y), feeds, force=True, isa=isa)
    assert len(groups(session)) == 1


def test_what_is_not_broadcast_here() -> None:
    """Images of a batch, other numbers of axes, and sizes that are known not to fit."""
    net = Net()
    x = conv(net, net.input("x", ["n", 3, 6, 6]), 3, 4)
    y = net.add("Add", x, net.input("y", ["m", 4, 6, 6]))
    z = net.add("Mul", y, net.input("z", [4, 1, 1]))
    shapes = {"x": [2, 3, 6, 6], "y": [1, 4, 6, 6], "z": [4, 1, 1]}
    session = compare(net.model(conv(net, z, 4, 2)), [feed(net.rng, shapes)], force=True)
    assert {d.op: d.claimed for d in runtime.explain(session)} == {
        "Conv": True, "Add": False, "Mul": False}  # fmt: skip


def size_of(net: Net, x: str, spelling: str) -> str:
    """Height and width of a value, as exporters write ``x.shape[2:]``."""
    if spelling == "slice":
        return net.add("Slice", net.add("Shape", x), *[ints(net, v) for v in (2, 4, 0)])
    if spelling == "start":
        return net.add("Shape", x, start=2, end=4)
    shape = net.add("Shape", x)
    indices = [net.add("Squeeze", ints(net, i)) for i in (2, 3)]  # folded to scalars
    picked = [net.add("Gather", shape, i) for i in indices]
    return net.add("Concat", *[net.add("Unsqueeze", p, ints(net, 0)) for p in picked], axis=0)


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def interpolate(net: Net, x: str, sizes: str, **attributes: Any) -> str:
    """``F.interpolate(x, size=...)``: the first two sizes are those of x."""
    head = net.add("Slice", net.add("Shape", x), *[ints(net, v) for v in (0, 2, 0)])
    target = net.add("Concat", head, net.add("Cast", sizes, to=7), axis=0)
    return net.add("Resize", x, "", "", target, **attributes)


NEAREST = {"mode": "nearest", "nearest_mode": "floor",
           "coordinate_transformation_mode": "asymmetric"}  # fmt: skip
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}


@pytest.mark.parametrize("isa", ["auto", "avx2", "scalar"])
@pytest.mark.parametrize("modes", [NEAREST, LINEAR, LINEAR | {
    "coordinate_transformation_mode": "align_corners"}])  # fmt: skip
@pytest.mark.parametrize("spelling", ["slice", "start", "gather"])
def test_a_pyramid_resized_to_the_sizes_of_its_levels(
    isa: str, modes: dict[str, str], spelling: str
) -> None:
    """``F.interpolate(top, size=level.shape[2:])``: any size of image fits, odd ones too."""
    net = Net()
    x = net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))
    levels = [x]
    for _ in range(2):
        pooled = net.add("MaxPool", levels[-1], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        levels.append(net.add("Relu", conv(net, pooled, 8, 8, 3)))
    top = conv(net, levels[-1], 8, 8)
    for i, level in enumerate(reversed(levels[:-1])):
        lateral = conv(net, level, 8, 8)
        up = interpolate(net, top, size_of(net, lateral, spelling), **modes)
        top = net.add("Add", lateral, up) if i else net.add("Concat", lateral, up, axis=1)
        top = net.add("Relu", conv(net, top, 8 if i else 16, 8, 3))
    # And the head to the size of the image (DeepLab, FCN).
    y = interpolate(net, conv(net, top, 8, 5), size_of(net, "x", spelling), **modes)
    feeds = [feed(net.rng, {"x": [n, 3, h, w]}) for n, h, w in
             [(1, 64, 32), (2, 17, 13), (1, 1, 1), (1, 5, 50), (1, 2, 1)]]  # fmt: skip
    session = compare(net.model(y), feeds, force=True, isa=isa)
    assert len(groups(session)) == 1
    compare(net.model(y), feeds)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_of_which_only_the_size_is_read(threads: int) -> None:
    net = Net()
    x = net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))
    y = net.input("y", ["n", 5, "k", "l"])
    model = net.model(conv(net, interpolate(net, x, size_of(net, y, "slice"), **LINEAR), 8, 4, 3))
    sizes = [
        (1, 4, 5, 9, 20),
        (3, 4, 5, 1, 1),
        (2, 1, 1, 7, 7),
        (1, 30, 30, 4, 60),
        (4, 9, 9, 9, 9),
    ]
    feeds = [feed(net.rng, {"x": [n, 3, h, w], "y": [n, 5, k, m]}) for n, h, w, k, m in sizes]
    session = compare(model, feeds, force=True, threads=threads)
    assert len(groups(session)) == 1
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session.run(None, feed(net.rng, {"x": [1, 3, 4, 5], "y": [1, 5, 0, 4]}))


def gathered(net: Net, kinds: list[str], spelling: str, chained: bool) -> list[str]:
    """Levels brought to the size of the first and put together (HRNet, SegFormer, PSPNet)."""
    levels = [net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))]
    for _ in kinds:
        pooled = net.add("MaxPool", levels[-1], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        levels.append(net.add("Relu", conv(net, pooled, 8, 8, 3)))
    outputs, parts = [], levels[:1]
    for level, kind in zip(levels[1:], kinds, strict=True):
        sizes = size_of(net, levels[0], spelling)
        if kind == "read":
            outputs.append(net.add("Cast", sizes, to=1))
        if chained:  # each on top of the one before
            pooled = net.add("AveragePool", parts[-1], kernel_shape=[2, 2])
            level = net.add("Concat", interpolate(net, level, size_of(net, pooled, spelling),
                                                  **NEAREST), pooled, axis=1)  # fmt: skip
            level = net.add("Relu", conv(net, level, 16, 8))
        modes = {"mode": "cubic"} if kind == "cubic" else LINEAR
        parts.append(interpolate(net, level, sizes, **modes))
    return [conv(net, net.add("Concat", *parts, axis=1), 8 * len(parts), 4), *outputs]


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("spelling", ["slice", "gather"])
@pytest.mark.parametrize("kinds", [["", ""], ["", "", ""], ["", "cubic", ""], ["", "read"]])
def test_several_images_of_one_size(kinds: list[str], spelling: str, chained: bool) -> None:
    """onnxruntime computes equal sizes once; then they are claimed together or not at all."""
    net = Net()
    model = net.model(*gathered(net, kinds, spelling, chained))
    feeds = [feed(net.rng, {"x": [n, 3, h, w]}) for n, h, w in
             [(1, 17, 30), (2, 8, 8), (1, 65, 64), (1, 2, 2)]]  # fmt: skip
    session = compare(model, feeds, force=True)
    if "cubic" not in kinds and "read" not in kinds:
        assert len(groups(session)) == 1
    for options in ({}, {"timing": False}, {"regions": False}, {"force": True, "threads": 2}):
        compare(model, feeds, **options)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("spelling", ["float", "int"])
def test_multiples_of_its_own_size(factor: int, spelling: str) -> None:
    """``F.interpolate(x, scale_factor=2, recompute_scale_factor=True)``."""
    net = Net()
    x = net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))
    sizes = size_of(net, x, "gather")
    if spelling == "float":
        times = net.constant(np.array(factor, np.float32))
        sizes = net.add("Floor", net.add("Mul", net.add("Cast", sizes, to=1), times))
    else:
        sizes = net.add("Mul", sizes, ints(net, factor))
    y = conv(net, interpolate(net, x, sizes, **NEAREST), 8, 4, 3)
    feeds = [feed(net.rng, {"x": [n, 3, h, w]}) for n, h, w in [(1, 6, 9), (2, 1, 1)]]
    session = compare(net.model(y), feeds, force=True)
    assert len(groups(session)) == 1


@pytest.mark.parametrize("kind", ["half", "input", "shared", "batch"])
def test_sizes_that_are_not_followed(kind: str) -> None:
    """Rounded, given from outside, or of a value whose shape others read: left to onnxruntime."""
    net = Net()
    x = net.add("Relu", conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 8, 3))
    given = {"x": [1, 3, 8, 10]}
    more: list[str] = []
    if kind == "half":
        times = net.constant(np.array(1.5, np.float32))
        sizes = net.add("Floor", net.add("Mul", net.add("Cast", size_of(net, x, "slice"), to=1),
                                         times))  # fmt: skip
    elif kind == "input":
        sizes = net.input("sizes", [2], 7)
    elif kind == "shared":
        sizes = size_of(net, net.input("y", ["n", 5, "k", "l"]), "slice")
        more.append(net.add("Cast", sizes, to=1))
        given["y"] = [1, 5, 11, 3]
    else:
        sizes = size_of(net, net.input("y", ["m", 5, "k", "l"]), "slice")
        given["y"] = [4, 5, 11, 3]
    y = conv(net, interpolate(net, x, sizes, **NEAREST), 8, 4, 3)
    feeds = feed(net.rng, given)
    if kind == "input":
        feeds["sizes"] = np.array([3, 21], np.int64)
    session = compare(net.model(y, *more), [feeds], force=True)
    decisions = {d.op: d.claimed for d in runtime.explain(session)}
    assert decisions["Conv"]
    assert not decisions["Resize"]


@pytest.mark.parametrize("by_sizes", [False, True])
def test_compiled_models_know_that_sizes_may_differ(by_sizes: bool, tmp_path: Path) -> None:
    """Saved as one node (where sizes are computed: several) that decides at every run."""
    net = Net()
    top = pyramid(net)
    gate = net.add("Sigmoid", conv(net, net.add("GlobalAveragePool", top), 8, 8))
    y = net.add("Div", net.add("Sub", top, gate), net.add("Sigmoid", conv(net, top, 8, 1)))
    if by_sizes:
        y = interpolate(net, conv(net, y, 8, 5), size_of(net, "x", "slice"), **NEAREST)
    model = net.model(y)
    compiled = compile_to(tmp_path / "compiled.onnx", model)
    if not by_sizes:
        assert [n.op_type for n in compiled.graph.node] == ["EPContext"]
    loaded, cpu = runtime.session(compiled, 1), runtime.session(model, 1, provider="cpu")
    for shape in ([1, 3, 16, 12], [2, 3, 4, 4], [1, 3, 64, 8]):
        given = feed(net.rng, {"x": shape})
        assert_close(loaded.run(None, given)[0], cpu.run(None, given)[0])
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        loaded.run(None, feed(net.rng, {"x": [1, 3, 16, 14]}))
