"""Graphs that exporters and people do write: each runs as on the CPU provider, claimed or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime_graphs import Array, Net, assert_close, claimed_ops, compare, feed

from onnxprune import runtime

ISA = ["auto", "avx2", "scalar"]


@pytest.mark.parametrize("pad", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("axes", [1, 2])
def test_automatic_padding(pad: str, stride: int, axes: int) -> None:
    for kernel in (1, 2, 3, 5):
        for size in (5, 8, 11):
            net = Net()
            shape = [2, 6, *[size, size + 2][:axes]]
            x = net.input("x", shape)
            w = net.weight(8, 3, *[kernel] * axes)
            y = net.add("Conv", x, w, auto_pad=pad, strides=[stride] * axes, group=2)
            compare(net.model(y), [feed(net.rng, {"x": shape})], force=True, reduction=75)


@pytest.mark.parametrize("isa", ISA)
def test_pads_on_one_side_dilations_and_groups(isa: str) -> None:
    for pads in ([0, 0, 3, 0], [2, 0, 0, 1], [4, 4, 4, 4], [0, 5, 1, 0]):
        for group in (1, 2, 4, 8):
            net = Net()
            x = net.input("x", ["n", 8, "h", "w"])
            w = net.weight(16, 8 // group, 3, 2)
            y = net.add("Conv", x, w, net.vector(16), pads=pads, dilations=[2, 3], group=group)
            y = net.add("LeakyRelu", y, alpha=0.3)
            shapes = [[1, 8, 9, 9], [3, 8, 5, 17], [0, 8, 9, 9]]
            compare(net.model(y), [feed(net.rng, {"x": s}) for s in shapes], force=True, isa=isa)


@pytest.mark.parametrize("dilation", [1 << 31, 1 << 40, (1 << 62) + 1])
def test_a_dilation_without_bound_stays_with_the_cpu_provider(dilation: int) -> None:
    """Between the taps of a window of one there is nothing, however far apart they are."""
    net = Net()
    x = net.input("x", [1, 8, 9, 9])
    y = net.add("Conv", x, net.weight(16, 8, 1, 1), dilations=[dilation, dilation])
    compare(net.model(y), [feed(net.rng, {"x": [1, 8, 9, 9]})], force=True)


@pytest.mark.parametrize("transA", [0, 1])
@pytest.mark.parametrize("transB", [0, 1])
@pytest.mark.parametrize("left", [False, True])
def test_gemm_of_every_form(transA: int, transB: int, left: bool) -> None:
    terms = [None, (), (1,), (14,), (1, 14), (6, 1), (6, 14), (1, 1)]
    for shape in terms:
        for alpha, beta in ((1.0, 1.0), (0.5, -2.0), (0.0, 1.0), (1.0, 0.0)):
            net = Net()
            a = (10, 6) if transA else (6, 10)
            b = (14, 10) if transB else (10, 14)
            x = net.input("x", b if left else a)
            w = net.weight(*(a if left else b))
            inputs = [w, x] if left else [x, w]
            if shape is not None:
                value = np.asarray(net.rng.standard_normal(shape), np.float32)
                inputs.append(net.constant(value))
            y = net.add("Gemm", *inputs, transA=transA, transB=transB, alpha=alpha, beta=beta)
            given = feed(net.rng, {"x": b if left else a})
            compare(net.model(y), [given], force=True)


@pytest.mark.parametrize("left", [False, True])
def test_matmul_of_every_rank(left: bool) -> None:
    for given, weight in [
        ([8], (8, 5)), ([8], (8,)), ([3, 8], (8,)), ([2, 3, 8], (8, 5)), ([4, 2, 3, 8], (8, 5)),
        ([2, 3, 8], (2, 8, 5)), ([3, 8], (4, 8, 5)), ([1, 3, 8], (1, 8, 5)), ([3, 8], (1, 1, 8, 5)),
        ([5, 1, 3, 8], (2, 8, 5)),
    ]:  # fmt: skip
        net = Net()
        shape = [*given[:-2], *given[-2:][::-1]] if left else given
        dims = (*weight[:-2], *weight[-2:][::-1]) if left else weight
        x, w = net.input("x", shape), net.weight(*dims)
        y = net.add("MatMul", *((w, x) if left else (x, w)))
        compare(net.model(net.add("Relu", y)), [feed(net.rng, {"x": shape})], force=True)


def test_nothing_to_compute() -> None:
    """Empty batches and empty rows, fixed and open, alone and inside a region."""
    for dims, shapes in [
        ([0, 8, 6, 6], [[0, 8, 6, 6]]),
        (["n", 8, 6, 6], [[0, 8, 6, 6], [2, 8, 6, 6], [0, 8, 6, 6]]),
    ]:
        net = Net()
        x = net.input("x", dims)
        a = net.add("Relu", net.add("Conv", x, net.weight(8, 8, 3, 3), pads=[1] * 4))
        y = net.add("Add", net.add("Conv", a, net.weight(8, 8, 1, 1)), x)
        compare(net.model(y, a), [feed(net.rng, {"x": s}) for s in shapes], force=True)
    for dims, shape in [([0, 8], [0, 8]), (["m", 8], [0, 8]), (["b", "t", 8], [3, 0, 8])]:
        net = Net()
        x = net.input("x", dims)
        y = net.add("Relu", net.add("MatMul", x, net.weight(8, 5)))
        compare(net.model(y), [feed(net.rng, {"x": shape})], force=True)


def test_one_weight_for_many_nodes() -> None:
    """Read by two convolutions, an addition and the outside world."""
    net = Net()
    x = net.input("x", [1, 8, 6, 6])
    w = net.weight(8, 8, 1, 1)
    a = net.add("Conv", x, w)
    b = net.add("Conv", net.add("Relu", a), w, net.vector(8))
    c = net.add("Mul", w, net.constant(np.float32(2)))
    d = net.add("Identity", w)
    model = net.model(a, b, c, d)
    session = compare(model, [feed(net.rng, {"x": [1, 8, 6, 6]})], force=True)
    assert claimed_ops(session).count("Conv") == 2


def test_a_weight_that_may_be_overridden_is_no_constant() -> None:
    """An initializer that is also an input: the caller's numbers count."""
    net = Net()
    x = net.input("x", [4, 16])
    w = net.weight(16, 8)
    net.input(w, [16, 8])
    model = net.model(net.add("MatMul", x, w))
    given = feed(net.rng, {"x": [4, 16]})
    other = {**given, w: net.rng.standard_normal((16, 8)).astype(np.float32)}
    session = compare(model, [given, other], force=True)
    assert claimed_ops(session) == []


def test_values_used_twice_and_names_left_out() -> None:
    net = Net()
    x = net.input("x", [1, 8, 6, 6])
    a = net.add("Conv", x, net.weight(8, 8, 3, 3), pads=[1] * 4)
    b = net.add("Add", a, a)
    c = net.add("Mul", b, b)
    d = net.add("Concat", c, c, a, axis=1)
    y = net.add("Conv", d, net.weight(4, 24, 1, 1))
    model = net.model(y, b)
    for node in model.graph.node:
        node.name = ""
    session = compare(model, [feed(net.rng, {"x": [1, 8, 6, 6]})], force=True, reduction=1024)
    assert claimed_ops(session).count("Conv") == 2


def test_an_input_that_is_an_output_and_a_constant_output() -> None:
    net = Net()
    x = net.input("x", [4, 16])
    w = net.weight(16, 16)
    y = net.add("MatMul", x, w)
    model = net.model(y)
    model.graph.output.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 16]))
    model.graph.output.append(helper.make_tensor_value_info(w, TensorProto.FLOAT, [16, 16]))
    session = compare(model, [feed(net.rng, {"x": [4, 16]})], force=True)
    assert claimed_ops(session) == ["MatMul"]


def test_bias_that_is_computed() -> None:
    net = Net()
    x = net.input("x", [1, 8, 6, 6])
    bias = net.add("ReduceMean", x, axes=[0, 2, 3], keepdims=0)
    y = net.add("Relu", net.add("Conv", x, net.weight(8, 8, 3, 3), bias))
    compare(net.model(y), [feed(net.rng, {"x": [1, 8, 6, 6]})], force=True)


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 1e-42, -1e-42, 3e38, 1e-38]


def products() -> list[Callable[[Net, Array], tuple[str, list[int]]]]:
    """Ways to use a weight [8, 8]: as a convolution, from either side, on one row."""

    def conv(net: Net, w: Array) -> tuple[str, list[int]]:
        x = net.input("x", [2, 8, 5, 7])
        return net.add("Conv", x, net.constant(w.reshape(8, 8, 1, 1))), [2, 8, 5, 7]

    def right(net: Net, w: Array) -> tuple[str, list[int]]:
        return net.add("MatMul", net.input("x", [20, 8]), net.constant(w)), [20, 8]

    def left(net: Net, w: Array) -> tuple[str, list[int]]:
        return net.add("MatMul", net.constant(w), net.input("x", [8, 20])), [8, 20]

    def row(net: Net, w: Array) -> tuple[str, list[int]]:
        return net.add("Gemm", net.input("x", [1, 8]), net.constant(w), transB=1), [1, 8]

    return [conv, right, left, row]


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("use", products(), ids=lambda f: f.__name__)
def test_special_weights(use: Any, isa: str) -> None:
    """NaN and infinity in a weight spread as on the CPU provider; tiny ones are not lost."""
    for special in SPECIAL:
        net = Net()
        w = np.zeros((8, 8), np.float32)
        w[2, 3], w[2, 5], w[6, 1] = special, 1.5, -0.25
        y, shape = use(net, w)
        model = net.model(y)
        given = {"x": net.rng.uniform(0.5, 1.5, shape).astype(np.float32)}
        session = runtime.session(model, 1, force=True, isa=isa)
        assert len(claimed_ops(session)) == 1
        actual = session.run(None, given)[0]
        expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-45)


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("use", products(), ids=lambda f: f.__name__)
def test_special_inputs(use: Any, isa: str) -> None:
    """Where every weight counts, odd inputs give what the CPU provider gives."""
    for special in SPECIAL:
        net = Net()
        w = net.rng.uniform(0.5, 1.5, (8, 8)).astype(np.float32)
        y, shape = use(net, w)
        model = net.model(y)
        x = net.rng.uniform(0.5, 1.5, shape).astype(np.float32)
        x.flat[3] = special
        actual = runtime.session(model, 1, force=True, isa=isa).run(None, {"x": x})[0]
        expected = runtime.session(model, 1, provider="cpu").run(None, {"x": x})[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_skipped_zero_stops_nan_and_infinity() -> None:
    """As documented: only outputs with a weight that is not zero see an odd input."""
    net = Net()
    w = np.eye(8, dtype=np.float32)
    model = net.model(net.add("MatMul", net.input("x", [4, 8]), net.constant(w)))
    x = np.ones((4, 8), np.float32)
    x[1, 2] = np.nan
    # What a timed choice falls on, a dense kernel included, varies from run to run.
    y = runtime.session(model, 1, force=True, timing=False).run(None, {"x": x})[0]
    assert np.array_equal(y, x, equal_nan=True)


ACTIVATIONS = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Clip", "Erf"]


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_special_values_through_activations(op: str, isa: str) -> None:
    net = Net()
    model = net.model(
        net.add(op, net.add("Conv", net.input("x", [1, 8, 2, 8]), net.constant(
            np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1))))
    )  # fmt: skip
    values = np.array([*SPECIAL, 0.0, 1.0, -1.0, 88.0, -88.0, 200.0, -200.0, 5e-8], np.float32)
    x = np.broadcast_to(values.reshape(1, 1, 2, 8), (1, 8, 2, 8)).copy()
    sparse = runtime.session(model, 1, force=True, isa=isa, timing=False)
    actual = sparse.run(None, {"x": x})[0]
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    del alone.graph.node[0]
    alone.graph.node[0].input[0] = "x"
    expected = runtime.session(alone, 1, provider="cpu").run(None, {"x": x})[0]
    finite = np.isfinite(expected)
    assert np.array_equal(actual[~finite], expected[~finite], equal_nan=True)
    assert_close(actual[finite], expected[finite])
