"""Shapes that inference alone does not find."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

import onnxprune


def shuffled() -> onnx.ModelProto:
    """Two convolutions with a channel shuffle between them whose sizes the graph computes."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 13]>
        shuffle (float[N, 3, 8, 8] x) => (float[N, 5, h, w] y)
        <int64 one = {1}, int64 two = {2}, int64[1] ax = {0}, int64[1] pair = {2},
         int64 zero = {0}, int64[1] eight = {8}>
        {
            a = Conv (x, first)
            s = Shape (a)
            n = Gather <axis = 0> (s, zero)
            n1 = Unsqueeze (n, ax)
            c = Gather <axis = 0> (s, one)
            halved = Div (c, two)
            half = Cast <to = 7> (halved)
            half1 = Unsqueeze (half, ax)
            c1 = Unsqueeze (c, ax)
            apart = Concat <axis = 0> (n1, pair, half1, eight, eight)
            b = Reshape (a, apart)
            t = Transpose <perm = [0, 2, 1, 3, 4]> (b)
            back = Concat <axis = 0> (n1, c1, eight, eight)
            r = Reshape (t, back)
            y = Conv (r, second)
        }
        """
    )
    rng = np.random.default_rng(0)
    for name, shape in (("first", (6, 3, 1, 1)), ("second", (5, 6, 3, 3))):
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


def test_masks_reach_layers_behind_sizes_that_the_graph_computes() -> None:
    """Every convolution gets a mask, and the file keeps its nodes."""
    model = shuffled()
    result = onnxprune.prune(model, pattern="element", sparsity=0.5)
    assert set(result.plan.masks) == {"first", "second"}
    assert [n.op_type for n in result.model.graph.node] == [n.op_type for n in model.graph.node]
    held = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert np.count_nonzero(held["second"]) == held["second"].size // 2
