"""Derivatives of what a student is compared by, against differences."""

import numpy as np
import onnx.parser
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.recovery.distil_graph import (
    CLASSES,
    Distillation,
    compared_points,
    graph_of,
    meeting_points,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 6)).astype(np.float32)
W = RNG.standard_normal((6, 4)).astype(np.float32)
WANT = RNG.standard_normal((2, 5, 4)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def student(*tail):
    """x @ w, and what nodes make of ``logits`` in the end."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"]), *tail]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5, 6])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", 5, 4])],
        [numpy_helper.from_array(W, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return graph_of(model, {"x": X})


def loss_of(w, want, probabilities):
    """Squared error over a variance of 2, and the weighted divergence, in float64."""
    logits = X.astype(np.float64) @ w
    have = softmax(logits) if probabilities else logits
    p, q = (want, softmax(logits)) if probabilities else (softmax(want), softmax(logits))
    divergence = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    return ((have - want) ** 2).mean() / 2.0 + CLASSES * divergence


@pytest.mark.parametrize("probabilities", [False, True])
def test_divergence_of_rows_of_classes(probabilities):
    want = softmax(WANT) if probabilities else WANT
    tail = [helper.make_node("Softmax", ["logits"], ["y"], axis=-1)] if probabilities else []
    end = "y" if probabilities else "logits"
    model = Distillation(student(*tail), ["w"], {end: 2.0}, classes=[end])
    loss, grads = model.run({"x": X}, {end: want}, {"w": W})
    exact = loss_of(W.astype(np.float64), want.astype(np.float64), probabilities)
    assert loss == pytest.approx(exact, rel=1e-5)
    step = 1e-5
    for place in np.ndindex(*W.shape):
        up, down = W.astype(np.float64), W.astype(np.float64)
        up[place] += step
        down[place] -= step
        wide = want.astype(np.float64)
        slope = (loss_of(up, wide, probabilities) - loss_of(down, wide, probabilities)) / (2 * step)
        assert grads["w"][place] == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_probabilities_that_no_softmax_makes_are_compared_by_squares_alone():
    tail = (
        helper.make_node("Softmax", ["logits"], ["p"], axis=-1),
        helper.make_node("Identity", ["p"], ["y"]),
    )
    made = Distillation(student(*tail), ["w"], {"y": 2.0}, classes=["y"])
    want = softmax(WANT)
    loss, _ = made.run({"x": X}, {"y": want}, {"w": W})
    assert loss == pytest.approx(((softmax(X @ W) - want) ** 2).mean() / 2.0, rel=1e-5)


BLOCK = """
    h{0} = MatMul (x{0}, w)
    m{0} = Add (h{0}, mask)
    r{0} = Relu (m{0})
    x{1} = Add (x{0}, r{0})
"""
ENDS = {
    "nothing else": "y = MatMul (x3, w)",
    "the size of the input": """
        z = MatMul (x3, w)
        s = Shape (x)
        y = Reshape (z, s)
    """,
    "the input": """
        z = MatMul (x3, w)
        y = Add (z, x)
    """,
}


@pytest.mark.parametrize("end", list(ENDS))
def test_ends_of_blocks_beside_masks_and_inputs_that_are_read_again(end):
    blocks = "".join(BLOCK.format(i, i + 1) for i in range(3))
    text = f"""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 5, 4] x, float[n, 5, 4] given) => (float[a, b, c] y)
        {{
            mask = Neg (given)
            x0 = MatMul (x, first)
            {blocks}
            {ENDS[end]}
        }}
    """
    model = onnx.parser.parse_model(text)
    for name in ("w", "first"):
        weight = RNG.standard_normal((4, 4)).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    feed = {"x": X[..., :4], "given": X[..., 1:5]}
    graph = graph_of(model, feed)
    assert meeting_points(graph, ["w", "first"]) == ["x0", "x1", "x2", "x3"]
    points, ends = compared_points(graph, ["w"], set(graph.values), 9)
    assert points == ["x1", "x2", "x3"]  # x0 is what it is in the dense network
    assert not ends
