"""One layer of a graph: many small groups at once give what each gives alone."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxprune import io
from onnxprune.calibration.grams import Sums
from onnxprune.calibration.operands import find_operand
from onnxprune.patterns import parse_pattern
from onnxprune.planning import find_layers
from onnxprune.recovery.apply_layer import GROUPED_DAMPING, solve_layer
from onnxprune.recovery.least_squares import solve_on_mask
from onnxprune.recovery.problem import Quadratic
from onnxprune.rules.analysis import analyze


def test_depthwise_layers_that_keep_everything_are_solved_together():
    rng = np.random.default_rng(0)
    channels = 24
    weight = rng.standard_normal((channels, 1, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "dw", group=channels, pads=[1] * 4)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [value("x", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [value("y", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    analyzer = analyze(io.load(model).model)
    (layer,) = find_layers(analyzer)
    operand = find_operand(analyzer, layer)
    columns = rng.standard_normal((channels, 9, 500)).astype(np.float32)
    matrix = weight.reshape(channels, 1, 9)
    target = matrix @ columns + 0.3 * rng.standard_normal((channels, 1, 500)).astype(np.float32)
    sums = Sums()
    sums.add(columns, target)
    train = sums.result()
    mask = np.ones(weight.shape, np.bool_)
    done = solve_layer(operand, weight, train, None, parse_pattern("element"), mask)
    assert done.mask.all()
    for g in range(channels):
        problem = Quadratic.build(matrix[g], train.gram[g], train.cross[g], damping=GROUPED_DAMPING)
        want = solve_on_mask(problem, np.ones((1, 9), np.bool_))
        np.testing.assert_allclose(done.weights[g], want, rtol=1e-6, atol=1e-9)
    aim = train.target - np.einsum("grd,gd->gr", done.weights, train.mean)
    np.testing.assert_allclose(done.shift, aim)
