"""Normalisations of images inside regions: LRN, and instance and group normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runtime_graphs import Net, claimed_ops, compare, feed

from onnxprune import runtime

ISA = ["auto", "avx2", "scalar"]
FIXED = [1, 8, 9, 13]
OPEN: list[int | str] = ["n", 8, "h", "w"]
SHAPES = [[1, 8, 9, 13], [3, 8, 1, 1], [2, 8, 1, 17], [1, 8, 32, 16], [0, 8, 5, 5]]


def shapes_of(dims: list[Any]) -> list[list[int]]:
    return [FIXED] if dims == FIXED else SHAPES


def group_norm(net: Net, x: str, channels: int, groups: int, form: str) -> str:
    """Normalise ``x`` over groups of channels in one of its spellings."""
    if form == "opset18":
        return net.add(
            "GroupNormalization",
            x,
            net.vector(groups),
            net.vector(groups),
            num_groups=groups,
            epsilon=1e-2,
        )
    if form == "opset21":
        vectors = net.vector(channels), net.vector(channels)
        return net.add("GroupNormalization", x, *vectors, num_groups=groups, epsilon=1e-2)
    # As exporters write it.
    shape = net.constant(np.array([0, groups, -1], np.int64))
    ones, zeros = (net.constant(np.full(groups, v, np.float32)) for v in (1, 0))
    y = net.add("InstanceNormalization", net.add("Reshape", x, shape), ones, zeros, epsilon=1e-3)
    y = net.add("Reshape", y, net.add("Shape", x))
    gain, shift = (
        net.constant(net.rng.standard_normal((channels, 1, 1)).astype(np.float32)) for _ in range(2)
    )
    return net.add("Add", net.add("Mul", y, gain), shift)


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("dims", [FIXED, OPEN])
@pytest.mark.parametrize(
    "norm",
    [
        {"size": 5},
        {"size": 1, "alpha": 2.0, "beta": 1.0},
        {"size": 3, "alpha": 0.7, "beta": 0.5, "bias": 2.0},
        {"size": 7, "alpha": 0.3, "beta": 1.7, "bias": 0.5},
        {"size": 31, "alpha": 1.0, "beta": 0.3, "bias": 1.0},
    ],
)
def test_lrn(isa: str, dims: list[Any], norm: dict[str, Any]) -> None:
    for threads in (1, 2):
        net = Net()
        x = net.add("Conv", net.input("x", dims), net.weight(24, 8, 3, 3), pads=[1] * 4)
        x = net.add("LRN", net.add("Relu", x), **norm)
        y = net.add("Conv", x, net.weight(8, 24, 3, 3), pads=[1] * 4)
        feeds = [feed(net.rng, {"x": s}) for s in shapes_of(dims)]
        session = compare(
            net.model(y, x), feeds, force=True, isa=isa, threads=threads, reduction=216
        )
        assert claimed_ops(session) == ["Conv", "Relu", "LRN", "Conv"]


def test_lrn_of_any_size_of_numbers() -> None:
    """Sums of squares from nothing to beyond the floats, and what is not a number.

    By the definition: the CPU provider subtracts what leaves the window from its sums, which leaves
    rounding errors of large numbers, and NaN of infinite ones, to all channels behind them.
    """
    net = Net()
    x = net.add("LRN", net.input("x", [1, 12, 4, 8]), size=3, alpha=2.0, beta=0.75, bias=1.0)
    y = net.add("Conv", x, net.weight(4, 12, 1, 1))
    given = net.rng.standard_normal((1, 12, 4, 8))
    given *= 10.0 ** np.linspace(-30, 18, given.size).reshape(given.shape)
    given[0, 5, 1, 3], given[0, 5, 2, 3], given[0, 2, 0, 0] = np.nan, np.inf, 1e25
    session = runtime.session(net.model(x, y).SerializeToString(), 1, force=True)
    assert claimed_ops(session) == ["LRN", "Conv"]
    single = given.astype(np.float32)
    actual = session.run(None, {"x": single})[0]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.pad(single.astype(np.float64) ** 2, [(0, 0), (1, 1), (0, 0), (0, 0)])
        sums = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:]
        sums[sums > np.finfo(np.float32).max] = np.inf
        expected = single / (1.0 + 2.0 / 3.0 * sums) ** 0.75
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("norm", [{"bias": 1e-12}, {"bias": 1e35}, {"beta": 5.0}])
def test_lrn_that_may_leave_the_normal_numbers(norm: dict[str, float]) -> None:
    net = Net()
    x = net.add("Conv", net.input("x", FIXED), net.weight(8, 8, 1, 1))
    x = net.add("LRN", x, size=3, **norm)
    session = compare(net.model(x), [feed(net.rng, {"x": FIXED})], force=True)
    assert claimed_ops(session) == ["Conv"]


@pytest.mark.parametrize("form", ["instance", "opset21", "spelled"])
@pytest.mark.parametrize("dims", [[1, 64, 28, 28], [1, 64, "h", "w"]])
def test_group_normalisation_joins_sparse_convolutions(form: str, dims: list[Any]) -> None:
    net = Net()
    x = net.input("x", dims)
    for _ in range(2):
        x = net.add("Conv", x, net.weight(64, 64, 3, 3, sparsity=0.95), pads=[1] * 4)
        if form == "instance":
            x = net.add("InstanceNormalization", x, net.vector(64), net.vector(64))
        else:
            x = group_norm(net, x, 64, 8, form)
        x = net.add("Relu", x)
    feeds = [feed(net.rng, {"x": [1, 64, 28, 28]})]
    session = compare(net.model(x, opset=21), feeds, timing=False, reduction=600)
    assert len({d.group for d in runtime.explain(session) if d.claimed}) == 1
    assert all(d.claimed for d in runtime.explain(session))


def test_lrn_is_claimed_where_it_joins_sparse_convolutions() -> None:
    net = Net()
    x = net.input("x", [1, 64, 28, 28])
    for _ in range(2):
        x = net.add("Conv", x, net.weight(64, 64, 3, 3, sparsity=0.95), pads=[1] * 4)
        x = net.add("LRN", net.add("Relu", x), size=5)
    session = compare(net.model(x), [feed(net.rng, {"x": [1, 64, 28, 28]})], timing=False)
    assert claimed_ops(session) == ["Conv", "Relu", "LRN"] * 2


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("dims", [FIXED, OPEN])
@pytest.mark.parametrize("groups", [1, 4, 24])
@pytest.mark.parametrize("form", ["opset18", "opset21", "spelled"])
def test_group_normalisation(isa: str, dims: list[Any], groups: int, form: str) -> None:
    for threads in (1, 2):
        net = Net()
        x = net.add("Conv", net.input("x", dims), net.weight(24, 8, 3, 3), pads=[1] * 4)
        x = group_norm(net, x, 24, groups, form)
        x = net.add("Sigmoid", x)
        y = net.add("Conv", x, net.weight(8, 24, 3, 3), pads=[1] * 4)
        feeds = [feed(net.rng, {"x": s}) for s in shapes_of(dims) if s[0] > 0]
        opset = 18 if form == "opset18" else 21
        session = compare(
            net.model(y, x, opset=opset),
            feeds,
            force=True,
            isa=isa,
            threads=threads,
            reduction=216,
        )
        claimed = claimed_ops(session)
        expected = "InstanceNormalization" if form == "spelled" else "GroupNormalization"
        assert claimed.count("Conv") == 2
        assert expected in claimed
        assert "Sigmoid" in claimed


@pytest.mark.parametrize("isa", ISA)
@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "LeakyRelu"])
def test_instance_normalisation(isa: str, axes: int, activation: str) -> None:
    shapes = [[1, 8, *[9, 13][:axes]], [2, 8, *[1, 1][:axes]], [3, 8, *[64, 65][:axes]]]
    for threads in (1, 2):
        net = Net()
        x = net.input("x", ["n", 8, *["h", "w"][:axes]])
        x = net.add("Conv", x, net.weight(24, 8, *[3] * axes), pads=[1] * 2 * axes)
        x = net.add("InstanceNormalization", x, net.vector(24), net.vector(24), epsilon=1e-2)
        x = net.add(activation, x)
        y = net.add("Conv", x, net.weight(8, 24, *[3] * axes), pads=[1] * 2 * axes)
        feeds = [feed(net.rng, {"x": s}) for s in shapes]
        session = compare(
            net.model(y, x), feeds, force=True, isa=isa, threads=threads, reduction=216
        )
        assert claimed_ops(session) == ["Conv", "InstanceNormalization", activation, "Conv"]


def test_numbers_far_from_zero_are_normalised() -> None:
    """Their variance is that of what is left without the mean."""
    net = Net()
    x = net.input("x", [2, 6, 33, 31])
    x = net.add("InstanceNormalization", x, net.vector(6), net.vector(6))
    y = net.add("Conv", x, net.weight(4, 6, 1, 1))
    given = feed(net.rng, {"x": [2, 6, 33, 31]})
    given["x"] += np.float32(30)
    session = compare(net.model(x, y), [given], force=True, reduction=6000)
    assert claimed_ops(session) == ["InstanceNormalization", "Conv"]


@pytest.mark.parametrize("target", [[2, 12, 9, 13], [1, 24, 13, 9], [1, 24, 117, 1]])
def test_a_reshape_that_does_not_lead_back(target: list[int]) -> None:
    net = Net()
    x = net.add("Conv", net.input("x", FIXED), net.weight(24, 8, 1, 1))
    shape = net.constant(np.array([1, 4, -1], np.int64))
    ones, zeros = (net.constant(np.full(4, v, np.float32)) for v in (1, 0))
    x = net.add("InstanceNormalization", net.add("Reshape", x, shape), ones, zeros)
    y = net.add("Relu", net.add("Reshape", x, net.constant(np.array(target, np.int64))))
    compare(net.model(y), [feed(net.rng, {"x": FIXED})], force=True)
