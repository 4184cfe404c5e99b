"""What an activation cuts off needs no fit: bounds are found, and errors behind them fall."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune import io
from onnxprune.calibration.operands import find_operand
from onnxprune.calibration.stages import Stream
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.patterns import parse_pattern
from onnxprune.recovery import solve_layers
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.apply_layer import solve_layer
from onnxprune.recovery.rectified import Bounds, bounds_of, rectified
from onnxprune.rules.analysis import analyze

numbers = st.floats(-20, 20, width=32)


@given(want=numbers, have=numbers, other=numbers, low=st.sampled_from([-np.inf, -1.0, 0.0]),
       high=st.sampled_from([1.0, 6.0, np.inf]))  # fmt: skip
def test_the_aim_bounds_the_error_behind(want, have, other, low, high):
    def f(x):
        return np.clip(np.float64(x), low, high)

    (aim,) = Bounds(low, high).aim(np.float32([want]), np.float32([have]))
    assert (f(want) - f(other)) ** 2 <= (np.float64(aim) - other) ** 2 + 1e-9
    if low < want < high:
        assert aim == np.float32(want)


def network(behind: list[onnx.NodeProto], **more: object) -> onnx.ModelProto:
    """Conv - Relu - Conv with a bias, what is ``behind`` it from ``h`` to ``z`` - Conv - ``y``."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((16, 4, 3, 3)) * 0.3,
        "b": rng.standard_normal((16, 16, 3, 3)) * 0.15,
        "bias": rng.standard_normal(16) * 0.3 - 1.0,
        "c": rng.standard_normal((8, 16, 1, 1)) * 0.3,
        "zero": np.zeros(()),
        "six": np.full((), 6.0),
        **more,
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h0"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("Conv", ["r0", "b", "bias"], ["h"], "middle", pads=[1] * 4),
        *behind,
        helper.make_node("Conv", ["z", "c"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 8])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


BEHIND = {
    "relu": ([node("Relu", ["h"], ["z"])], Bounds(0.0, np.inf)),
    "clip": ([node("Clip", ["h", "zero", "six"], ["z"])], Bounds(0.0, 6.0)),
    "half a clip": ([node("Clip", ["h", "", "six"], ["z"])], Bounds(-np.inf, 6.0)),
    "shortcut": (
        [node("Add", ["h", "r0"], ["s"]), node("Relu", ["s"], ["z"])],
        Bounds(0.0, np.inf),
    ),
    "two readers": (
        [node("Relu", ["h"], ["p"]), node("Add", ["p", "h"], ["z"])],
        None,
    ),
    "another bias": (
        [node("Add", ["h", "zero"], ["s"]), node("Relu", ["s"], ["z"])],
        None,
    ),
    "sigmoid": ([node("Sigmoid", ["h"], ["z"])], None),
    "nothing": ([node("Identity", ["h"], ["z"])], None),
}


def work_of(model, samples=96):
    held = io.load(model).model
    InferShapes().run(held, Context())
    x = np.random.default_rng(1).standard_normal((samples, 4, 8, 8)).astype(np.float32)
    return Reconstruction(analyze(held), [{"x": x[i : i + 4]} for i in range(0, samples, 4)])


@pytest.mark.parametrize("name", BEHIND)
def test_bounds_are_those_of_what_reads_the_layer(name):
    behind, expected = BEHIND[name]
    work = work_of(network(behind), 4)
    operand = find_operand(work.analyzer, work.layers["b"])
    assert bounds_of(work.analyzer, operand) == expected


def test_bounds_in_front_of_a_normalisation():
    rng = np.random.default_rng(2)
    norm = {
        "gamma": rng.standard_normal(16), "beta": rng.standard_normal(16),
        "mean": rng.standard_normal(16), "var": rng.random(16) + 0.5,
    }  # fmt: skip
    norm["gamma"][3] = 0.0
    behind = [
        node("BatchNormalization", ["h", *norm], ["n"]),
        node("Clip", ["n", "zero", "six"], ["z"]),
    ]
    work = work_of(network(behind, **norm), 4)
    found = bounds_of(work.analyzer, find_operand(work.analyzer, work.layers["b"]))
    x = rng.standard_normal((1, 16, 500)) * 8
    scale = norm["gamma"] / np.sqrt(norm["var"] + 1e-5)
    after = (x - norm["mean"][:, None]) * scale[:, None] + norm["beta"][:, None]
    inside = (found.low < x) & (x < found.high)
    np.testing.assert_array_equal(
        np.delete(inside, 3, 1), np.delete((after > 0) & (after < 6), 3, 1)
    )
    assert inside[0, 3].all()


def problem(work):
    """The middle layer at 2:4: its operand, pairs, moments and solution."""
    layer = work.layers["b"]
    operand = find_operand(work.analyzer, layer)
    dense = Stream(work.stages, work.feeds)
    dense.advance(work.stages.place_of(layer.node))
    pairs = work.pairs(operand, dense, dense)
    train, other = work.statistics(operand, dense, dense)
    weight = layer.numbers().astype(np.float64)
    pattern = parse_pattern("2:4")
    mask = layer.unview(pattern.mask(np.abs(layer.view(weight.astype(np.float32))), None))
    solved = solve_layer(operand, weight, train, other, pattern, mask, method="given")
    return pairs, train, solved


def test_where_nothing_is_cut_off_least_squares_stay():
    work = work_of(network(BEHIND["nothing"][0]))
    pairs, train, solved = problem(work)
    again = rectified(pairs, solved, train, work.held, Bounds(-np.inf, np.inf))
    np.testing.assert_allclose(again.weights, solved.weights, atol=1e-5)


@pytest.mark.parametrize("name", ["relu", "clip", "shortcut"])
def test_errors_behind_the_activation_fall(name, monkeypatch):
    behind, bounds = BEHIND[name]
    work = work_of(network(behind))
    pairs, train, solved = problem(work)
    found = rectified(pairs, solved, train, work.held, bounds)
    first, last = found.account["behind"]
    assert last < 0.995 * first
    assert not np.count_nonzero(found.weights[~solved.mask])

    layer = work.layers["b"]
    pattern = parse_pattern("2:4")
    mask = layer.unview(pattern.mask(np.abs(layer.view(layer.numbers().astype(np.float32))), None))

    def loss():
        found = solve_layers.solve_layers(work, {"b": mask}, pattern, method="given")
        held = Stream(work.stages, work.held_feeds)
        work.dress(held, found.weights, found.biases)
        place = next(i for i, n in enumerate(work.stages.nodes) if n.name == "last")
        plain = Stream(work.stages, work.held_feeds)
        held.advance(place)
        plain.advance(place)
        pairs = zip(held.values, plain.values, strict=True)
        return sum(float(((a["z"] - b["z"]) ** 2).sum()) for a, b in pairs)

    after = loss()
    monkeypatch.setattr(solve_layers, "rectified", lambda pairs, solved, *_, **__: solved)
    assert after < 0.995 * loss()
