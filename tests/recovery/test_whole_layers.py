"""Layers that no mask touches make up for what pruned ones before them lost."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune import io
from onnxprune.patterns import parse_pattern
from onnxprune.recovery import solve_layers
from onnxprune.recovery.apply import Reconstruction
from onnxprune.rules.analysis import analyze

CHANNELS = 16


def network() -> onnx.ModelProto:
    """Conv (dense) - 1x1 - Clip - depth-wise 3x3 - Clip - 1x1 - mean over positions."""
    rng = np.random.default_rng(0)
    c = CHANNELS
    weights = {
        "first": rng.standard_normal((c, 3, 3, 3)) * 0.4,
        "wide": rng.standard_normal((2 * c, c, 1, 1)) * 0.4,
        "wide_b": rng.standard_normal(2 * c) * 0.1,
        "deep": rng.standard_normal((2 * c, 1, 3, 3)) * 0.4,
        "deep_b": rng.standard_normal(2 * c) * 0.1,
        "last": rng.standard_normal((10, 2 * c, 1, 1)) * 0.3,
        "low": np.zeros(()),
        "high": np.full((), 6.0),
    }
    same = {"kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["h0"], "first", **same),
        helper.make_node("Conv", ["h0", "wide", "wide_b"], ["h1"], "wide"),
        helper.make_node("Clip", ["h1", "low", "high"], ["c1"]),
        helper.make_node("Conv", ["c1", "deep", "deep_b"], ["h2"], "deep", group=2 * c, **same),
        helper.make_node("Clip", ["h2", "low", "high"], ["c2"]),
        helper.make_node("Conv", ["c2", "last"], ["h3"], "last"),
        helper.make_node("GlobalAveragePool", ["h3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10, 1, 1])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_depthwise_layers_between_pruned_ones_are_solved_too(monkeypatch):
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((4, 3, 12, 12)).astype(np.float32)} for _ in range(24)]
    pattern = parse_pattern("2:4")

    def solved():
        work = Reconstruction(analyze(io.load(network()).model), feeds)
        layer = work.layers["wide"]
        scores = np.abs(layer.view(layer.numbers().astype(np.float32)))
        mask = layer.unview(pattern.mask(scores, None))
        found = solve_layers.solve_layers(work, {"wide": mask}, pattern)
        return found, work.agreement(work.judge(), found.weights, found.biases)

    found, after = solved()
    assert set(found.masks) == {"wide"}  # what stays whole has no mask afterwards either
    assert set(found.weights) == {"wide", "deep", "last"}  # none before the first pruned one
    assert np.count_nonzero(found.weights["wide"]) == found.masks["wide"].sum()
    assert np.count_nonzero(found.weights["deep"]) == found.weights["deep"].size
    monkeypatch.setattr(solve_layers, "_behind", lambda *_: [])
    alone, before = solved()
    assert set(alone.weights) == {"wide"}
    assert after.loss < 0.7 * before.loss
