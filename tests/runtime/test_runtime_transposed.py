"""Transposed convolutions and DepthToSpace: phases computed apart and interleaved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime


@st.composite
def transposed(draw: st.DrawFn) -> dict[str, Any]:
    axes = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = [draw(st.integers(1, 5)) for _ in range(axes)]
    stride = [draw(st.integers(1, 4)) for _ in range(axes)]
    extra = [draw(st.integers(0, s - 1)) for s in stride]
    pads = [draw(st.integers(0, k - 1)) for k in kernel] * 2
    pads[axes:] = [draw(st.integers(0, k - 1)) for k in kernel]
    least = [
        max(1, -(-(1 + pads[i] + pads[axes + i] - k - extra[i]) // s) + 1)
        for i, (k, s) in enumerate(zip(kernel, stride, strict=True))
    ]
    return {
        "groups": draw(st.sampled_from([1, 1, 1, 2, 3])),
        "inputs": draw(st.integers(1, 5)),
        "outputs": draw(st.integers(1, 5)),
        "kernel": kernel,
        "stride": stride,
        "extra": extra,
        "pads": pads,
        "size": [n + draw(st.integers(0, 12)) for n in least],
        "batch": draw(st.integers(1, 2)),
        "sparsity": draw(st.sampled_from([0.0, 0.6, 0.9, 1.0])),
        "bias": draw(st.booleans()),
        "behind": draw(st.sampled_from(["", "Relu", "Sigmoid", "scaled", "conv", "Add"])),
        "dynamic": draw(st.booleans()),
        "isa": draw(st.sampled_from(["auto", "avx2", "scalar"])),
        "threads": draw(st.integers(1, 2)),
        "seed": draw(st.integers(0, 99)),
    }


@settings(max_examples=200)
@given(transposed())
def test_any_transposed_convolution(c: dict[str, Any]) -> None:
    net = Net(c["seed"])
    axes, groups = len(c["kernel"]), c["groups"]
    inputs, outputs = c["inputs"] * groups, c["outputs"] * groups
    shape = [c["batch"], inputs, *c["size"]]
    x = net.input("x", ["n", inputs, *[f"s{i}" for i in range(axes)]] if c["dynamic"] else shape)
    weight = net.weight(inputs, c["outputs"], *c["kernel"], sparsity=c["sparsity"])
    y = net.add("ConvTranspose", x, weight, *([net.vector(outputs)] if c["bias"] else []),
                group=groups, strides=c["stride"], pads=c["pads"],
                output_padding=c["extra"])  # fmt: skip
    if c["behind"] == "scaled":
        ones = [1] * axes
        scale, shift = (
            net.constant(net.rng.standard_normal((outputs, *ones)).astype(np.float32))
            for _ in range(2)
        )
        y = net.add("Relu", net.add("Add", net.add("Mul", y, scale), shift))
    elif c["behind"] == "conv":
        y = net.add("Conv", y, net.weight(3, outputs, *[3] * axes), pads=[1] * 2 * axes)
    elif c["behind"] == "Add":
        y = net.add("Add", y, net.add("Neg", y))
    elif c["behind"]:
        y = net.add(c["behind"], y)
    shapes = [shape]
    if c["dynamic"]:
        shapes.append([c["batch"] + 1, inputs, *[n + 3 for n in c["size"]]])
    session = compare(net.model(y), [feed(net.rng, {"x": s}) for s in shapes], force=True,
                      isa=c["isa"], threads=c["threads"])  # fmt: skip
    assert "ConvTranspose" in claimed_ops(session)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("isa", ["auto", "scalar"])
def test_depth_to_space(mode: str, block: int, isa: str) -> None:
    """As networks for super-resolution end: one region, activations before they are moved."""
    net = Net()
    x = net.input("x", ["n", 3, "h", "w"])
    y = net.add("Relu", net.add("Conv", x, net.weight(4 * block**2, 3, 3, 3), pads=[1] * 4))
    y = net.add("DepthToSpace", y, blocksize=block, mode=mode)
    y = net.add("Conv", y, net.weight(2, 4, 3, 3), pads=[1] * 4)
    shapes = [(1, 3, 9, 20), (2, 3, 1, 3)]
    session = compare(net.model(y), [feed(net.rng, {"x": s}) for s in shapes], force=True, isa=isa)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1


def test_an_upsampling_decoder_is_one_region() -> None:
    """Halved and doubled by a transposed convolution, sizes are known to be what they were."""
    net = Net()
    x = net.add("Conv", net.input("x", ["n", 3, "h", "w"]), net.weight(8, 3, 3, 3), pads=[1] * 4)
    down = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    deep = net.add("Relu", net.add("Conv", down, net.weight(16, 8, 3, 3), pads=[1] * 4))
    up = net.add("ConvTranspose", deep, net.weight(16, 8, 2, 2), net.vector(8), strides=[2, 2])
    y = net.add("Conv", net.add("Concat", x, net.add("Relu", up), axis=1), net.weight(4, 16, 3, 3),
                pads=[1] * 4)  # fmt: skip
    shapes = [(1, 3, 16, 12), (2, 3, 4, 32)]
    session = compare(net.model(y), [feed(net.rng, {"x": s}) for s in shapes], force=True)
    decisions = runtime.explain(session)
    assert all(d.claimed for d in decisions)
    assert len({d.group for d in decisions}) == 1
    (transposed,) = [d for d in decisions if d.op == "ConvTranspose"]
    assert 0.6 < transposed.sparsity < 0.95


def test_padding_of_phases_is_not_sparsity() -> None:
    """Phases of a 3x3 window with stride 2 lack taps; that is no pruned weight."""
    net = Net()
    x = net.input("x", [1, 4, 8, 8])
    y = net.add("ConvTranspose", x, net.weight(4, 6, 3, 3, sparsity=0.0), strides=[2, 2],
                pads=[1] * 4, output_padding=[1, 1])  # fmt: skip
    session = compare(net.model(y), [feed(net.rng, {"x": (1, 4, 8, 8)})])
    (decision,) = runtime.explain(session)
    assert decision.sparsity == pytest.approx(0.0, abs=1e-6)
    assert not decision.claimed


@pytest.mark.parametrize("attributes", [{"dilations": [2, 2]}, {"auto_pad": "SAME_UPPER"},
                                        {"output_shape": [16, 16]}])  # fmt: skip
def test_left_alone_with_a_reason(attributes: dict[str, Any]) -> None:
    net = Net()
    x = net.input("x", [1, 4, 8, 8])
    y = net.add("ConvTranspose", x, net.weight(4, 6, 2, 2), strides=[2, 2], **attributes)
    session = compare(net.model(y), [feed(net.rng, {"x": (1, 4, 8, 8)})], force=True)
    assert claimed_ops(session) == []
