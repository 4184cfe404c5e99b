"""What moves numbers inside a region: resized images, picked and shuffled channels; PRelu."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime


def conv(net: Net, x: str, inputs: int, outputs: int, kernel: int = 1) -> str:
    weight = net.weight(outputs, inputs, kernel, kernel)
    return net.add("Conv", x, weight, net.vector(outputs), pads=[kernel // 2] * 4)


def ints(net: Net, *values: int) -> str:
    return net.constant(np.array(values, np.int64))


def split(net: Net, x: str, sizes: list[int], axis: int = 1) -> list[str]:
    """All parts of a Split."""
    stem = f"v{len(net.nodes)}"
    outs = [f"{stem}_{i}" for i in range(len(sizes))]
    net.nodes.append(
        helper.make_node("Split", [x, ints(net, *sizes)], outs, name=f"{stem}_Split", axis=axis)
    )
    return outs


COORDINATES = ["asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners",
               "half_pixel_symmetric"]  # fmt: skip
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@settings(max_examples=150)
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    factor=st.tuples(*[st.sampled_from([0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 2.6, 3.0, 4.0])] * 2),
    by_sizes=st.booleans(),
    dynamic=st.booleans(),
    mode=st.sampled_from(["nearest", "linear"]),
    coordinates=st.sampled_from(COORDINATES),
    nearest=st.sampled_from(NEAREST),
    batch=st.integers(1, 2),
)
def test_resize_of_any_kind(
    size: tuple[int, int],
    factor: tuple[float, float],
    by_sizes: bool,
    dynamic: bool,
    mode: str,
    coordinates: str,
    nearest: str,
    batch: int,
) -> None:
    target = [max(1, int(s * f)) for s, f in zip(size, factor, strict=True)]
    assume(all(s * f >= 1 for s, f in zip(size, factor, strict=True)))
    net = Net()
    x = net.input("x", ["n", 3, "h", "w"] if dynamic else [batch, 3, *size])
    a = conv(net, x, 3, 4)
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    if by_sizes and dynamic:
        b = net.add("Resize", a, "", "", ints(net, *target), axes=[2, 3], **attributes)
    elif by_sizes:
        b = net.add("Resize", a, "", "", ints(net, batch, 4, *target), **attributes)
    else:
        scales = net.constant(np.array([1, 1, *factor], np.float32))
        b = net.add("Resize", a, "", scales, **attributes)
    y = conv(net, b, 4, 5, 3)
    model = net.model(y, opset=19)
    model.ir_version = 9
    feeds = [feed(net.rng, {"x": [batch, 3, *size]})]
    if dynamic:
        feeds.append(feed(net.rng, {"x": [1, 3, size[0] + 3, size[1] + 5]}))
    session = compare(model, feeds, force=True)
    claimed = claimed_ops(session)
    assert claimed.count("Conv") == 2
    if factor != (1.0, 1.0):  # else onnxruntime leaves it out
        assert "Resize" in claimed or "Resize" not in [d.op for d in runtime.explain(session)]


@pytest.mark.parametrize("op", ["Upsample", "Resize"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [2.0, 1.5, 0.6])
def test_resize_of_old_opsets(op: str, mode: str, factor: float) -> None:
    """Before opset 11 coordinates are plain quotients, rounded up where the image shrinks."""
    if op == "Upsample" and factor < 1:
        pytest.skip("only ever enlarges")
    net = Net()
    a = conv(net, net.input("x", [1, 3, 10, 15]), 3, 4)
    scales = net.constant(np.array([1, 1, factor, factor], np.float32))
    model = net.model(conv(net, net.add(op, a, scales, mode=mode), 4, 5, 3),
                      opset=9 if op == "Upsample" else 10)  # fmt: skip
    session = compare(model, [feed(net.rng, {"x": [1, 3, 10, 15]})], force=True)
    assert len({d.group for d in runtime.explain(session)}) == 1


def test_resize_of_one_pixel_and_of_signals() -> None:
    """Context of a whole image spread over it again (Chen et al., 2017); one spatial axis."""
    net = Net()
    x = net.input("x", [2, 3, 9, 12])
    context = net.add("Relu", conv(net, net.add("GlobalAveragePool", x), 3, 4))
    wide = net.add("Resize", context, "", "", ints(net, 2, 4, 9, 12), mode="linear")
    y = conv(net, net.add("Concat", wide, conv(net, x, 3, 2), axis=1), 6, 5, 3)
    session = compare(net.model(y), [feed(net.rng, {"x": [2, 3, 9, 12]})], force=True)
    assert all(d.claimed for d in runtime.explain(session))
    net = Net()
    x = net.input("x", [1, 3, 14])
    a = net.add("Conv", x, net.weight(4, 3, 3), net.vector(4), pads=[1, 1])
    b = net.add("Resize", a, "", net.constant(np.array([1, 1, 2], np.float32)), mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    y = net.add("Conv", b, net.weight(5, 4, 3), net.vector(5), pads=[1, 1])
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 3, 14]})], force=True)
    assert claimed_ops(session) == ["Conv", "Resize", "Conv"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "cubic"},
        {"mode": "linear", "antialias": 1},
        {"mode": "linear", "keep_aspect_ratio_policy": "not_larger"},
    ],
)
def test_resizes_that_are_left_alone(attributes: dict[str, Any]) -> None:
    net = Net()
    a = conv(net, net.input("x", [1, 3, 8, 8]), 3, 4)
    b = net.add("Resize", a, "", "", ints(net, 16, 12), axes=[2, 3], **attributes)
    model = net.model(conv(net, b, 4, 5), opset=18)
    session = compare(model, [feed(net.rng, {"x": [1, 3, 8, 8]})], force=True)
    assert claimed_ops(session) == ["Conv", "Conv"]


@st.composite
def parts(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))


@settings(max_examples=80)
@given(
    sizes=parts(),
    image=st.booleans(),
    ends=st.lists(st.sampled_from(["conv", "output", "add", "concat", "nothing"]), min_size=4,
                  max_size=4),
    pixels=st.sampled_from([1, 5, 24]),
    threads=st.sampled_from([1, 2]),
)  # fmt: skip
def test_split_with_any_readers(
    sizes: list[int], image: bool, ends: list[str], pixels: int, threads: int
) -> None:
    """Parts are views of the whole; they may leave the region, be added up, or be put together."""
    net = Net(sum(sizes))
    total = sum(sizes)
    shape = [1, 3, pixels, pixels] if image else [2, pixels, 3]
    x = net.input("x", shape)

    def layer(x: str, inputs: int, outputs: int) -> str:
        if image:
            return conv(net, x, inputs, outputs, 3)
        return net.add("MatMul", x, net.weight(inputs, outputs))

    whole = layer(x, 3, total)
    given = split(net, whole, sizes, 1 if image else -1)
    outputs = [net.add("Relu", whole)]
    for part, size, end in zip(given, sizes, ends, strict=False):
        if end == "conv":
            outputs.append(layer(part, size, 4))
        elif end == "output":
            outputs.append(part)
        elif end == "add":
            outputs.append(net.add("Add", part, net.add("Sigmoid", part)))
        elif end == "concat" and image:
            outputs.append(net.add("Concat", part, conv(net, part, size, 2), part, axis=1))
    session = compare(
        net.model(*outputs), [feed(net.rng, {"x": shape})], force=True, threads=threads
    )
    assert "Split" in claimed_ops(session)


def test_split_as_a_detector_writes_it() -> None:
    """Halves of which one goes through blocks and all are put together (YOLOv8's C2f)."""
    net = Net()
    x = net.input("x", [1, 3, 16, 16])
    a, b = split(net, net.add("Relu", conv(net, x, 3, 16)), [8, 8])
    c = net.add("Add", b, net.add("Relu", conv(net, b, 8, 8, 3)))
    y = conv(net, net.add("Concat", a, b, c, axis=1), 24, 6)
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 3, 16, 16]})], force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


@pytest.mark.parametrize("image", [True, False])
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 100), (-4, -1)])
def test_slices_of_channels(image: bool, start: int, stop: int) -> None:
    net = Net()
    axis, shape = (1, [1, 3, 6, 6]) if image else (2, [2, 7, 3])
    x = net.input("x", shape)
    a = conv(net, x, 3, 8) if image else net.add("MatMul", x, net.weight(3, 8))
    b = net.add("Slice", a, ints(net, start), ints(net, stop), ints(net, axis))
    channels = len(range(8)[start:stop])
    y = conv(net, b, channels, 4, 3) if image else net.add("MatMul", b, net.weight(channels, 4))
    session = compare(net.model(y, b), [feed(net.rng, {"x": shape})], force=True)
    assert all(d.claimed for d in runtime.explain(session))


@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("groups", [2, 3])
def test_shuffled_channels(batch: int | str, groups: int) -> None:
    """Channels of groups interleaved (ShuffleNet; Zhang et al., 2018), then halved."""
    net = Net()
    x = net.input("x", [batch, 3, 10, 12])
    a = conv(net, x, 3, 12)
    b = net.add("Reshape", a, ints(net, -1, groups, 12 // groups, 10, 12))
    c = net.add("Transpose", b, perm=[0, 2, 1, 3, 4])
    d = net.add("Reshape", c, ints(net, -1, 12, 10, 12))
    e, f = split(net, d, [6, 6])
    y = net.add("Concat", e, conv(net, f, 6, 6, 3), axis=1)
    feeds = [feed(net.rng, {"x": [n, 3, 10, 12]}) for n in ([1] if batch == 1 else [1, 3])]
    session = compare(net.model(y), feeds, force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


def test_a_shuffle_that_is_read_in_between_is_left_alone() -> None:
    net = Net()
    x = net.input("x", [1, 3, 4, 4])
    b = net.add("Reshape", conv(net, x, 3, 8), ints(net, 1, 2, 4, 4, 4))
    c = net.add("Transpose", b, perm=[0, 2, 1, 3, 4])
    y = conv(net, net.add("Reshape", c, ints(net, 1, 8, 4, 4)), 8, 4)
    session = compare(net.model(y, c), [feed(net.rng, {"x": [1, 3, 4, 4]})], force=True)
    assert claimed_ops(session) == ["Conv", "Conv"]


@pytest.mark.parametrize("slope", [[], [1], [6, 1, 1], [1, 6, 1, 1]])
@pytest.mark.parametrize("isa", ["auto", "scalar"])
def test_prelu(slope: list[int], isa: str) -> None:
    net = Net()
    x = net.input("x", [1, 3, 9, 10])
    a = conv(net, x, 3, 6, 3)
    b = net.add("PRelu", a, net.constant(net.rng.standard_normal(slope).astype(np.float32)))
    y = conv(net, b, 6, 4, 3)
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 3, 9, 10]})], force=True, isa=isa)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


HARD = ["swish_last", "swish_times", "swish_gate", "swish_gate_times", "sigmoid", "sigmoid_times"]


@pytest.mark.parametrize("form", HARD)
@pytest.mark.parametrize("flip", [False, True])
def test_hard_swish_spelled_out(form: str, flip: bool) -> None:
    """As exporters write it that know no HardSwish; x * min(max(x + 3, 0), 6) / 6."""
    net = Net()
    three, zero, six, sixth = (net.constant(np.array(v, np.float32)) for v in (3, 0, 6, 1 / 6))

    def pair(op: str, a: str, b: str) -> str:
        return net.add(op, b, a) if flip else net.add(op, a, b)

    x = conv(net, net.input("x", [1, 3, 9, 10]), 3, 6, 3)
    part = net.add("Clip", pair("Add", x, three), zero, six)
    times = form.endswith("times")
    if "gate" not in form and "swish" in form:
        part = pair("Mul", x, part)
    part = pair("Mul", part, sixth) if times else net.add("Div", part, six)
    if "gate" in form:
        part = pair("Mul", x, part)
    model = net.model(conv(net, part, 6, 4))
    feeds = [{"x": 4 * feed(net.rng, {"x": [1, 3, 9, 10]})["x"]}]
    session = compare(model, feeds, force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert all(d.kernel == decisions[0].kernel for d in decisions[:-1])  # all in the first sum


def test_other_bounds_are_no_hard_swish() -> None:
    net = Net()
    three, zero, five, six = (net.constant(np.array(v, np.float32)) for v in (3, 0, 5, 6))
    x = conv(net, net.input("x", [1, 3, 9, 10]), 3, 6, 3)
    gate = net.add("Clip", net.add("Add", x, three), zero, five)
    y = net.add("Div", net.add("Mul", x, gate), six)
    compare(net.model(y), [{"x": 4 * feed(net.rng, {"x": [1, 3, 9, 10]})["x"]}], force=True)


def test_parts_of_what_a_subgraph_reads() -> None:
    """A part of a Split that only an If body reads still leaves the region."""
    net = Net()
    x = net.input("x", [1, 3, 6, 6])
    net.input("flag", [], TensorProto.BOOL)
    a, b = split(net, conv(net, x, 3, 8), [4, 4])

    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [b], [f"{op}_out"])], op, [], [out])

    y = net.add("If", "flag", then_branch=branch("Neg"), else_branch=branch("Abs"))
    feeds = [
        {**feed(net.rng, {"x": [1, 3, 6, 6]}), "flag": np.array(flag)} for flag in (True, False)
    ]
    session = compare(net.model(conv(net, a, 4, 4), y), feeds, force=True)
    assert claimed_ops(session) == ["Conv", "Split", "Conv"]


def test_open_sizes_meet_in_a_concatenation() -> None:
    """Halved and doubled again, a size is not known to be what it was; Concat promises it."""
    net = Net()
    x = conv(net, net.input("x", ["n", 3, "h", "w"]), 3, 6)
    down = net.add("Conv", x, net.weight(8, 6, 3, 3), pads=[1] * 4, strides=[2, 2])
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    up = net.add("Resize", net.add("Relu", down), "", scales, mode="nearest")
    y = conv(net, net.add("Concat", up, x, axis=1), 14, 5, 3)
    model = net.model(net.add("Add", y, conv(net, x, 6, 5)))
    shapes = [(1, 3, 8, 12), (2, 3, 2, 2), (1, 3, 6, 4)]
    session = compare(model, [feed(net.rng, {"x": s}) for s in shapes], force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1
    with pytest.raises(Exception, match="shapes"):
        session.run(None, feed(net.rng, {"x": (1, 3, 7, 8)}))


def test_small_images_need_few_taps() -> None:
    """Taps that only read padding are left out, for every size by itself."""
    net = Net()
    x = net.input("x", ["n", 4, "h", "w"])
    y = net.add("Relu", net.add("Conv", x, net.weight(8, 4, 5, 5), net.vector(8), pads=[2] * 4))
    y = net.add("Conv", y, net.weight(8, 8, 3, 3), pads=[4] * 4, dilations=[4, 4])
    model = net.model(net.add("Conv", y, net.weight(6, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    shapes = [(2, 4, 1, 1), (1, 4, 2, 1), (1, 4, 1, 9), (1, 4, 4, 3), (3, 4, 12, 10)]
    for isa in ("auto", "avx2", "scalar"):
        feeds = [feed(net.rng, {"x": s}) for s in shapes]
        session = compare(model, feeds, force=True, isa=isa)
        assert all(d.claimed for d in runtime.explain(session))
