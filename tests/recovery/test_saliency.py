"""How much positions count: against derivatives in closed form, and what it is good for."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.operands import find_operand
from onnxprune.calibration.stages import Stages
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.planning import find_layers
from onnxprune.recovery import saliency
from onnxprune.recovery.saliency import FLOOR, Saliency
from onnxprune.rules.analysis import analyze

RNG = np.random.default_rng(3)
X = RNG.standard_normal((64, 12)).astype(np.float32)
WEIGHTS = {
    "a": RNG.standard_normal((12, 24)) * 0.4,
    "b": RNG.standard_normal((24, 1)) * 1.2,
    "low": np.full(1, -3.0),
}


def model_of(nodes, weights, inputs, output="y"):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inputs)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(a), n) for n, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def scorer(last="Sigmoid", **attributes):
    """Two layers with a Relu between, and what is ``last``."""
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b", "low"], ["z"], "second"),
        helper.make_node(last, ["z"], ["y"], **attributes),
    ]
    return model_of(nodes, WEIGHTS, ["N", 12])


def found_of(model, feeds):
    held = io.load(model).model
    InferShapes().run(held, Context())
    analyzer = analyze(held)
    operands = [find_operand(analyzer, layer) for layer in find_layers(analyzer)]
    return Saliency.of(Stages(held), operands, feeds, 1e6), operands


def test_behind_a_sigmoid_it_is_the_square_of_the_slope():
    found, (first, second) = found_of(scorer(), [{"x": X[:40]}, {"x": X[40:]}])
    hidden = np.maximum(X.astype(np.float64) @ WEIGHTS["a"], 0)
    y = 1 / (1 + np.exp(-(hidden @ WEIGHTS["b"] - 3)))
    slope = y * (1 - y)
    for operand, gradient in (
        (second, slope),
        (first, slope * WEIGHTS["b"].T * (hidden > 0)),
    ):
        squares = (gradient**2).sum(axis=1)
        want = FLOOR + (1 - FLOOR) * squares / squares.mean()
        have = np.concatenate([found.weights(operand, i, None) for i in range(2)])
        np.testing.assert_allclose(have, want, rtol=1e-4)
        assert have.mean() == pytest.approx(1, rel=1e-5)
    chosen = np.array([3, 17])
    np.testing.assert_array_equal(
        found.weights(second, 0, chosen), found.weights(second, 0, None)[chosen]
    )


@pytest.mark.parametrize("last", ["Identity", "Softmax"])
def test_logits_count_alike_even_where_probabilities_saturate(last):
    weights = {**WEIGHTS, "b": RNG.standard_normal((24, 5)) * 3, "low": np.zeros(5)}
    model = scorer(last, **({"axis": -1} if last == "Softmax" else {}))
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(a), n) for n, a in weights.items()
    )
    found, _ = found_of(model, [{"x": X}])
    assert not found.layers


def test_columns_of_a_convolution_are_weighed_at_their_positions(monkeypatch):
    monkeypatch.setattr(saliency, "FEW_POSITIONS", 2.0)
    weights = {"a": RNG.standard_normal((6, 2, 3, 3)), "b": RNG.standard_normal((1, 6, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], "first"),
        helper.make_node("Conv", ["h", "b"], ["z"], "second"),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    pictures = RNG.standard_normal((3, 2, 6, 7)).astype(np.float32)
    found, (first, second) = found_of(
        model_of(nodes, weights, ["N", 2, "H", "W"]), [{"x": pictures}]
    )
    columns = first.columns(pictures, None)[0]
    matrix = np.float32(weights["b"]).reshape(1, 6) @ first.matrix(np.float32(weights["a"]))[0]
    y = 1 / (1 + np.exp(-(matrix @ columns)))
    squares = (y * (1 - y))[0] ** 2
    want = FLOOR + (1 - FLOOR) * squares / squares.mean()
    for operand in (first, second):
        np.testing.assert_allclose(found.weights(operand, 0, None), want, rtol=1e-4)
        chosen = np.array([2, 9])
        picked = found.weights(operand, 0, chosen).reshape(3, 2)
        np.testing.assert_allclose(picked, want.reshape(3, -1)[:, chosen], rtol=1e-4)


def test_a_layer_that_also_acts_where_nothing_is_followed_is_left_out():
    nodes = [
        *scorer().graph.node[:3],
        helper.make_node("Sigmoid", ["z"], ["s"]),
        helper.make_node("Round", ["r"], ["rounded"]),  # without a derivative
        helper.make_node("ReduceSum", ["rounded", "one"], ["other"], keepdims=1),
        helper.make_node("Mul", ["s", "other"], ["y"]),
    ]
    model = model_of(nodes, WEIGHTS, ["N", 12])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    found, _ = found_of(model, [{"x": X}])
    assert set(found.layers) <= {"z"}


def test_nothing_is_asked_of_networks_that_are_too_large():
    held = io.load(scorer()).model
    InferShapes().run(held, Context())
    analyzer = analyze(held)
    operands = [find_operand(analyzer, layer) for layer in find_layers(analyzer)]
    assert not Saliency.of(Stages(held), operands, [{"x": X}], 1e13).layers


@pytest.mark.parametrize("better", [True, False])
def test_the_better_of_both_ways_is_taken(better):
    rng = np.random.default_rng(11)
    weights = {
        "a": rng.standard_normal((32, 48)) * 0.5,
        "b": rng.standard_normal((48, 48)) * 0.3,
        "c": rng.standard_normal((48, 1)),
        "low": np.full(1, -8.0),
    }
    x = rng.standard_normal((600, 32)).astype(np.float32)
    if better:  # strong samples far below zero, that least squares would fit first
        weights["c"], weights["low"] = -np.abs(weights["c"]) / 8, np.full(1, 4.0)
        strong = rng.random(600) < 0.6
        x[:, 16:] *= strong[:, None] * 8
        x[:, :16] *= ~strong[:, None]
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h0"], "first"),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("Gemm", ["r0", "b"], ["h1"], "second"),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Gemm", ["r1", "c", "low"], ["z"], "third"),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    done = onnxprune.prune(
        model_of(nodes, weights, ["N", 32]), "element", 0.6,
        data={"x": x}, samples=600, recover="reconstruct", first_layer="prune",
    )  # fmt: skip
    steps = done.report["recovery"]["steps"]
    print(steps)
    losses = {s["weighed"]: s["loss"] for s in steps if s["step"] == "reconstruct"}
    assert (losses[True] < losses[False]) == better
    assert steps[-1]["kept"] == (losses[False] < losses[True])
