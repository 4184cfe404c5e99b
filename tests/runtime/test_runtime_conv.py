"""Convolutions against the CPU provider, over every geometry and fusion that may be claimed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime

ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.2}),
    ("Clip", {}),
    ("HardSwish", {}),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("SiLU", {}),
]


def activate(net: Net, x: str, name: str, attributes: dict[str, Any]) -> str:
    if not name:
        return x
    if name == "SiLU":
        return net.add("Mul", x, net.add("Sigmoid", x))
    if name == "Clip":
        low, high = net.constant(np.float32(-0.5)), net.constant(np.float32(1.5))
        return net.add("Clip", x, low, high)
    return net.add(name, x, **attributes)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    axes = draw(st.sampled_from([1, 2, 2, 2]))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    kernel = [draw(st.integers(1, 4)) for _ in range(axes)]
    dilation = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(axes)]
    pads = [draw(st.integers(0, 3)) for _ in range(2 * axes)]
    size = [
        max(draw(st.integers(1, 20)), (k - 1) * d + 1 - pads[i] - pads[axes + i])
        for i, (k, d) in enumerate(zip(kernel, dilation, strict=True))
    ]
    return {
        "axes": axes,
        "groups": groups,
        "inputs": groups * draw(st.integers(1, 7)),
        "outputs": groups * draw(st.integers(1, 9)),
        "kernel": kernel,
        "dilation": dilation,
        "pads": pads,
        "stride": [draw(st.integers(1, 3)) for _ in range(axes)],
        "size": size,
        "batch": draw(st.integers(1, 3)),
        "sparsity": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "bias": draw(st.booleans()),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "residual": draw(st.booleans()),
        "dynamic": draw(st.booleans()),
        "isa": draw(st.sampled_from(["auto", "avx2", "scalar"])),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=150)
@given(convolutions())
def test_any_geometry(c: dict[str, Any]) -> None:
    net = Net(c["seed"])
    axes = c["axes"]
    dims: list[int | str] = [c["batch"], c["inputs"], *c["size"]]
    if c["dynamic"]:
        dims = ["n", c["inputs"], *[f"s{i}" for i in range(axes)]]
    x = net.input("x", dims)
    weight = net.weight(
        c["outputs"], c["inputs"] // c["groups"], *c["kernel"], sparsity=c["sparsity"]
    )
    inputs = [x, weight, *([net.vector(c["outputs"])] if c["bias"] else [])]
    y = net.add("Conv", *inputs, group=c["groups"], strides=c["stride"], pads=c["pads"],
                dilations=c["dilation"])  # fmt: skip
    if c["residual"]:
        # A second convolution of the same geometry gives a value of the right shape.
        other = net.add("Conv", x, net.weight(c["outputs"], c["inputs"] // c["groups"],
                        *c["kernel"]), group=c["groups"], strides=c["stride"], pads=c["pads"],
                        dilations=c["dilation"])  # fmt: skip
        y = net.add("Add", other, y)
    y = activate(net, y, *c["activation"])
    shapes = [[c["batch"], c["inputs"], *c["size"]]]
    if c["dynamic"]:
        shapes.append([c["batch"] + 1, c["inputs"], *[s + 5 for s in c["size"]]])
    feeds = [feed(net.rng, {"x": s}) for s in shapes]
    model = net.model(y)
    session = compare(model, feeds, force=True, isa=c["isa"], reduction=c["inputs"])
    assert "Conv" in claimed_ops(session)


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2])
def test_automatic_padding(pad: str, stride: int) -> None:
    net = Net()
    x = net.input("x", [1, 6, 11, 14])
    y = net.add("Conv", x, net.weight(8, 6, 3, 4), auto_pad=pad, strides=[stride, stride])
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 6, 11, 14]})], force=True)
    assert claimed_ops(session) == ["Conv"]


def test_automatic_padding_of_an_open_size_is_left_alone() -> None:
    net = Net()
    x = net.input("x", [1, 6, "h", "w"])
    y = net.add("Conv", x, net.weight(8, 6, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    session = compare(net.model(y), [feed(net.rng, {"x": [1, 6, 11, 14]})], force=True)
    assert claimed_ops(session) == []
    assert "automatic padding" in runtime.explain(session)[0].reason


def test_left_alone_with_a_reason() -> None:
    """What cannot be computed exactly stays with the CPU provider, and the log says why."""
    cases: dict[str, tuple[Net, str, dict[str, Any]]] = {}

    net = Net()
    x = net.input("x", [1, 4, 8, 8, 8])
    cases["over 3 axes"] = (net, net.add("Conv", x, net.weight(4, 4, 2, 2, 2)), {})
    net = Net()
    x, w = net.input("x", [1, 4, 8, 8]), net.input("w", [4, 4, 3, 3])
    cases["not constant"] = (net, net.add("Conv", x, w), {})
    net = Net()
    x, b = net.input("x", [1, 4, 8, 8]), net.input("b", [4])
    cases["bias is not constant"] = (net, net.add("Conv", x, net.weight(4, 4, 3, 3), b), {})
    for reason, (net, y, options) in cases.items():
        session = runtime.session(net.model(y).SerializeToString(), 1, force=True, **options)
        assert claimed_ops(session) == []
        assert reason in runtime.explain(session)[0].reason


def test_other_element_types_are_left_alone() -> None:
    net = Net()
    x = net.input("x", [3, 4], TensorProto.DOUBLE)
    y = net.add("MatMul", x, net.constant(net.rng.standard_normal((4, 4))))
    model = net.model(y)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    session = runtime.session(model, 1, force=True)
    assert claimed_ops(session) == []
    assert "float32" in runtime.explain(session)[0].reason
    assert session.run(None, {"x": np.ones((3, 4))})[0].dtype == np.float64


def test_dense_weights_are_not_claimed_for_speed() -> None:
    net = Net()
    x = net.input("x", [1, 32, 28, 28])
    y = net.add("Conv", x, net.weight(32, 32, 3, 3, sparsity=0.0), pads=[1] * 4)
    session = runtime.session(net.model(y), 1)
    assert claimed_ops(session) == []
    assert "below min_sparsity" in runtime.explain(session)[0].reason


def test_empty_batch() -> None:
    net = Net()
    x = net.input("x", ["n", 6, 9, 9])
    y = net.add("Relu", net.add("Conv", x, net.weight(8, 6, 3, 3)))
    shapes: list[dict[str, Any]] = [{"x": [0, 6, 9, 9]}, {"x": [2, 6, 9, 9]}, {"x": [0, 6, 9, 9]}]
    session = compare(net.model(y), [feed(net.rng, s) for s in shapes], force=True)
    assert claimed_ops(session) == ["Conv", "Relu"]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_single_pixels(groups: int) -> None:
    net = Net()
    x = net.input("x", ["n", 6, "h", "w"])
    y = net.add("Conv", x, net.weight(12, 6 // groups, 1, 1), net.vector(12), group=groups)
    compare(net.model(y), [feed(net.rng, {"x": [2, 6, h, h]}) for h in (1, 2)], force=True)


def test_a_window_that_does_not_fit_is_an_error() -> None:
    net = Net()
    x = net.input("x", ["n", 6, "h", "w"])
    y = net.add("Conv", x, net.weight(8, 6, 5, 5))
    session = runtime.session(net.model(y), 1, force=True)
    with pytest.raises(Exception, match="does not fit"):
        session.run(None, feed(net.rng, {"x": [1, 6, 3, 3]}))
    # The session survives.
    assert session.run(None, feed(net.rng, {"x": [1, 6, 5, 5]}))[0].shape == (1, 8, 1, 1)


def test_leftover_batch_norm_is_folded() -> None:
    """Behind a residual addition onnxruntime cannot fold it; behind Conv we still do."""
    net = Net()
    x = net.input("x", [2, 8, 10, 10])
    conv = net.add("Conv", x, net.weight(8, 8, 3, 3), pads=[1] * 4)
    parts = [net.vector(8) for _ in range(3)]
    variance = net.constant(net.rng.uniform(0.5, 2, 8).astype(np.float32))
    summed = net.add("Add", conv, x)
    y = net.add("Relu", net.add("BatchNormalization", summed, *parts, variance))
    session = compare(net.model(y), [feed(net.rng, {"x": [2, 8, 10, 10]})], force=True)
    assert set(claimed_ops(session)) == {"Conv", "Add", "BatchNormalization", "Relu"}
