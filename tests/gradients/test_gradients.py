"""Every rule against central differences of the operator itself, run by onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.gradients import Emitter, NoGradient, backward
from onnxprune.gradients.emit import OPSET


def model_of(nodes, inputs, outputs, constants, opset=OPSET):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [
            c if not isinstance(c, np.ndarray) else numpy_helper.from_array(c, n)
            for n, c in constants.items()
        ],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check(nodes, inputs, constants=(), *, outputs=None, rtol=1e-2, seed=0, opset=OPSET):
    """Compare the derivative of ``sum(r * y)`` along a random direction of every input."""
    constants = dict(constants)
    rng = np.random.default_rng(seed)
    made = [n for node in nodes for n in node.output if n]
    outputs = outputs or [nodes[-1].output[0]]
    forward = model_of(nodes, inputs, made, constants, opset)
    values = dict(zip(made, forward.run(made, inputs), strict=True))
    weights = {n: rng.standard_normal(values[n].shape).astype(np.float32) for n in outputs}
    shapes = {n: a.shape for n, a in {**inputs, **constants, **values}.items()}
    e = Emitter(shapes, constants, OPSET)
    seeds = {n: e.const(w) for n, w in weights.items()}
    found = backward(e, nodes, seeds, list(inputs))
    assert set(found) == set(inputs)
    for name, got in found.items():
        assert e.shapes[got] == inputs[name].shape
    session = model_of(
        [*nodes, *e.nodes], inputs, list(found.values()), {**constants, **e.constants}, opset
    )
    grads = dict(zip(found, session.run(None, inputs), strict=True))

    def scalar(feed):
        got = forward.run(outputs, feed)
        return sum(
            float((g.astype(np.float64) * weights[n]).sum())
            for n, g in zip(outputs, got, strict=True)
        )

    for name, array in inputs.items():
        way = rng.standard_normal(array.shape).astype(np.float32)
        step = 1e-2
        ends = [scalar({**inputs, name: array + s * step * way}) for s in (1, -1)]
        want = (ends[0] - ends[1]) / (2 * step)
        have = float((grads[name].astype(np.float64) * way).sum())
        scale = np.linalg.norm(grads[name]) * np.linalg.norm(way) / np.sqrt(way.size)
        assert have == pytest.approx(want, rel=rtol, abs=rtol * max(scale, 1e-3)), name


def rand(*shape, seed=1, low=-1.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


CONVS = [
    ((2, 4, 7, 6), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 7, 6), (6, 4, 3, 3), {"pads": [0, 1, 1, 2], "strides": [2, 1]}),
    ((2, 4, 8, 8), (6, 2, 3, 2), {"group": 2, "strides": [2, 3]}),
    ((2, 4, 8, 8), (4, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1]}),
    ((2, 4, 8, 9), (4, 1, 3, 2), {"group": 4, "strides": [3, 2]}),  # pixels no window reaches
    ((2, 4, 8, 8), (8, 1, 3, 3), {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ((2, 3, 9, 9), (5, 3, 3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((2, 3, 9, 9), (5, 3, 1, 1), {"strides": [2, 2]}),
    ((2, 3, 9, 9), (5, 3, 4, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 3, 9), (5, 3, 4), {"pads": [1, 3]}),
    ((1, 2, 5, 5, 4), (3, 2, 3, 3, 2), {"pads": [1, 1, 0, 1, 1, 0]}),
    ((2, 3, 4, 4), (5, 3, 1, 1), {"pads": [1, 1, 1, 1]}),
]


@pytest.mark.parametrize(("x", "w", "how"), CONVS)
def test_convolutions(x, w, how):
    inputs = {"x": rand(*x), "w": rand(*w, seed=2), "b": rand(w[0], seed=3)}
    check([helper.make_node("Conv", ["x", "w", "b"], ["y"], **how)], inputs, rtol=2e-3)


@pytest.mark.parametrize(
    ("w", "how"),
    [
        ((4, 3, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
        ((4, 2, 2, 2), {"strides": [2, 2], "group": 2}),
        ((4, 3, 3, 3), {"dilations": [2, 1]}),
    ],
)
def test_transposed_convolutions(w, how):
    outputs = w[1] * how.get("group", 1)
    inputs = {"x": rand(2, 4, 5, 4), "w": rand(*w, seed=2), "b": rand(outputs, seed=3)}
    check([helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **how)], inputs, rtol=2e-3)


@pytest.mark.parametrize(("ta", "tb"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_gemm(ta, tb):
    a, b = rand(*((4, 3) if ta else (3, 4))), rand(*((5, 4) if tb else (4, 5)), seed=2)
    node = helper.make_node(
        "Gemm", ["a", "b", "c"], ["y"], transA=ta, transB=tb, alpha=0.5, beta=2.0
    )
    check([node], {"a": a, "b": b, "c": rand(5, seed=3)}, rtol=2e-3)


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3, 4), (4, 5)), ((2, 6, 3, 4), (2, 6, 4, 5)), ((3, 4), (2, 4, 5))]
)
def test_matmul(left, right):
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    check([node], {"a": rand(*left), "b": rand(*right, seed=2)}, rtol=2e-3)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("Identity", {}), ("Relu", {}), ("LeakyRelu", {"alpha": 0.2}), ("Sigmoid", {}),
        ("Tanh", {}), ("HardSigmoid", {"alpha": 0.3}), ("HardSwish", {}), ("Erf", {}),
        ("Exp", {}), ("Log", {}), ("Neg", {}), ("Sqrt", {}), ("Reciprocal", {}),
        ("Softmax", {"axis": 1}), ("Softmax", {"axis": -1}), ("LogSoftmax", {"axis": -1}),
        ("Transpose", {"perm": [2, 0, 1]}), ("Transpose", {}), ("Flatten", {"axis": 1}),
        ("ReduceMean", {"axes": [1], "keepdims": 0}), ("ReduceMean", {"keepdims": 1}),
        ("Cast", {"to": 1}),
    ],
)  # fmt: skip
def test_one_input(kind, how):
    # Away from kinks and from where a function is not defined.
    x = rand(3, 4, 5)
    x = np.sign(x) * (np.abs(x) + 0.1)
    if kind in ("Log", "Sqrt", "Reciprocal"):
        x = np.abs(x) + 0.5
    check([helper.make_node(kind, ["x"], ["y"], **how)], {"x": x.astype(np.float32)})


@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (4,)), ((3, 1), (2, 3, 4)), ((5,), (5,))])
def test_two_inputs_with_broadcasting(kind, left, right):
    b = rand(*right, seed=2) + 2.0
    node = helper.make_node(kind, ["a", "b"], ["y"])
    check([node], {"a": rand(*left), "b": b.astype(np.float32)})


def ints(*values):
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("kind", "constants", "how"),
    [
        ("Clip", {"a": np.float32(-0.5) * np.ones(()), "b": np.float32(0.5) * np.ones(())}, {}),
        ("Pow", {"a": np.array(3.0, np.float32)}, {}),
        ("Pow", {"a": np.array(2.0, np.float32)}, {}),
        ("Reshape", {"a": ints(4, -1)}, {}),
        ("Unsqueeze", {"a": ints(0, 2)}, {}),
        ("Expand", {"a": ints(2, 2, 4, 6)}, {}),
        ("Tile", {"a": ints(2, 1, 3)}, {}),
        ("Slice", {"a": ints(0, -1), "b": ints(3, -(2**63)), "c": ints(1, 2), "d": ints(2, -2)},
         {}),
        ("Slice", {"a": ints(1), "b": ints(2**62), "c": ints(-1)}, {}),
        ("Gather", {"a": ints(3, 0)}, {"axis": 1}),
        ("Pad", {"a": ints(0, 1, 2, 0, 0, 1)}, {}),
        ("Pad", {"a": ints(0, 1, 2, 0, 3, 5)}, {"mode": "reflect"}),
        ("Pad", {"a": ints(1, 0, 2, 0, 2, 7)}, {"mode": "edge"}),
        ("ReduceSum", {"a": ints(0, 2)}, {"keepdims": 0}),
    ],
)  # fmt: skip
def test_constants_beside_the_input(kind, constants, how):
    constants = {n: np.asarray(c, np.float32 if c.dtype.kind == "f" else None)
                 for n, c in constants.items()}  # fmt: skip
    x = np.round(rand(2, 4, 6) * 5) / 5  # no value near a limit of Clip
    check([helper.make_node(kind, ["x", *constants], ["y"], **how)], {"x": x}, constants)


def test_concat_and_split():
    join = helper.make_node("Concat", ["a", "b"], ["y"], axis=1)
    check([join], {"a": rand(2, 3, 2), "b": rand(2, 1, 2, seed=2)})
    cut = helper.make_node("Split", ["x", "n"], ["y", "z"], axis=-1)
    check([cut], {"x": rand(2, 3, 5)}, {"n": ints(2, 3)}, outputs=["y", "z"])
    check([cut], {"x": rand(2, 3, 5)}, {"n": ints(2, 3)}, outputs=["z"])


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ("AveragePool", {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        (
            "AveragePool",
            {
                "kernel_shape": [3, 4],
                "strides": [3, 4],
                "pads": [1, 0, 1, 1],
                "ceil_mode": 1,
                "count_include_pad": 1,
            },
        ),
        ("GlobalAveragePool", {}),
        ("DepthToSpace", {"blocksize": 2}),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}),
    ],
)
def test_pooling_and_depth_to_space(kind, how):
    # Values a step apart, so that no maximum changes hands.
    x = np.random.default_rng(0).permutation(2 * 4 * 6 * 6).reshape(2, 4, 6, 6) / 10.0
    check([helper.make_node(kind, ["x"], ["y"], **how)], {"x": x.astype(np.float32)})


def test_normalisations():
    x, scale, bias = rand(3, 4, 5), rand(4, seed=2) + 1.5, rand(4, seed=3)
    batch = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])
    stats = {"m": rand(4, seed=4), "v": rand(4, seed=5) + 1.5}
    check([batch], {"x": x, "s": scale, "b": bias}, stats)
    layer = helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=-1)
    check([layer], {"x": x, "s": rand(5, seed=2), "b": rand(5, seed=3)})


def test_a_residual_block_with_a_value_used_twice():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"], pads=[1, 1, 1, 1]),  # the same weight
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("Sigmoid", ["d"], ["y"]),
    ]
    check(nodes, {"x": rand(2, 3, 5, 5), "w": rand(3, 3, 3, 3, seed=2)}, outputs=["y", "b"])


def test_what_has_no_derivative_says_so():
    e = Emitter({"x": (3,), "y": (3,)}, {}, OPSET)
    with pytest.raises(NoGradient, match="Sign"):
        backward(e, [helper.make_node("Sign", ["x"], ["y"])], {"y": "s"}, ["x"])
    # Nothing depends on it: nothing to say.
    assert backward(e, [helper.make_node("Sign", ["x"], ["y"])], {}, ["x"]) == {}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "gates", "how"),
    [
        ("GRU", 3, {"linear_before_reset": 1}),
        ("GRU", 3, {"linear_before_reset": 0}),
        ("LSTM", 4, {}),
        ("RNN", 1, {}),
    ],
)
@pytest.mark.parametrize("ends", ["all", "last", "cell"])
def test_recurrent_layers(kind, gates, how, direction, ends):
    steps, batch, size, hidden = 5, 2, 4, 3
    ways = 2 if direction == "bidirectional" else 1
    inputs = {
        "x": rand(steps, batch, size),
        "w": rand(ways, gates * hidden, size, seed=2),
        "r": rand(ways, gates * hidden, hidden, seed=3),
        "b": rand(ways, 2 * gates * hidden, seed=4),
        "h": rand(ways, batch, hidden, seed=5),
    }
    names = ["x", "w", "r", "b", "", "h"]
    if kind == "LSTM":
        inputs["c"] = rand(ways, batch, hidden, seed=6)
        names.append("c")
    outputs = ["y", "yh"] if ends == "all" else ["", "yh"]
    if ends == "cell":  # as streaming networks give their states
        outputs = ["y", "", "yc"] if kind == "LSTM" else ["y"]
    node = helper.make_node(kind, names, outputs, hidden_size=hidden, direction=direction, **how)
    check([node], inputs, outputs=[n for n in outputs if n], rtol=5e-3)


def test_a_recurrent_layer_with_lengths_has_no_derivative():
    inputs = {"x": rand(3, 2, 4), "w": rand(1, 9, 4), "r": rand(1, 9, 3)}
    lengths = {"n": np.array([3, 2], np.int32)}
    node = helper.make_node("GRU", ["x", "w", "r", "", "n"], ["y"], hidden_size=3)
    with pytest.raises(NoGradient, match="lengths"):
        check([node], inputs, lengths)
