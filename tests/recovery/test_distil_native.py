"""Training steps by the runtime library's operators, and the same steps without them."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.formats.weights import DOMAIN
from onnxprune.gradients import rules_layers
from onnxprune.recovery import distil_graph
from onnxprune.recovery.distil_graph import Distillation, graph_of
from onnxprune.runtime.library import library_path, training_operators


@pytest.fixture(autouse=True)
def _library():
    if not training_operators():
        assert library_path() is None, "there is a library, but it cannot be used"
        pytest.skip("the runtime library is not built")


def rand(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def made_of(nodes, weights, x, **constants):
    """A graph from ``x`` to ``y``, a feed for it, and its weights."""
    held = {**weights, **constants}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in held.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feed = {"x": rand(*x, seed=5)}
    return graph_of(model, feed), feed, weights


def student(x, kernel, between=(), **how):
    """A layer that mixes channels, a depth-wise one between activations, and one behind it."""
    channels, rank = 6, len(kernel)
    weights = {
        "a": rand(channels, x[1], *[1] * rank, seed=1),
        "b": rand(channels, 1, *kernel, seed=2),
        "bias": rand(channels, seed=3),
        "c": rand(4, channels, *[1] * rank, seed=4),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["s"]),
        helper.make_node("Relu", ["s"], ["t"]),
        helper.make_node("Conv", ["t", "b", "bias"], ["u"], group=channels, **how),
        *(between or [helper.make_node("Clip", ["u", "low", "high"], ["v"])]),
        helper.make_node("Conv", ["v", "c"], ["y"]),
    ]
    return made_of(nodes, weights, x, low=np.float32(-0.5), high=np.float32(2))


def step(made, native, monkeypatch, threads=1):
    """Loss and derivatives, and the kinds of the nodes that gave them."""
    graph, feed, weights = made
    kinds = []

    def session(model, *args, **kwargs):
        proto = helper.onnx.load_model_from_string(model)
        kinds.extend(n.op_type for n in proto.graph.node if n.domain == DOMAIN)
        return open_session(model, *args, **kwargs)

    open_session = distil_graph.session
    with monkeypatch.context() as patch:
        patch.setattr(distil_graph, "session", session)
        if not native:
            patch.setenv("ONNXPRUNE_LIBRARY", "/nowhere")
        model = Distillation(graph, list(weights), {"y": 1.5}, threads=threads)
    want = {"y": rand(*graph.shapes["y"], seed=6)}
    loss, grads = model.run(feed, want, weights)
    assert set(grads) == set(weights)
    return loss, grads, set(kinds)


def check(made, monkeypatch, kinds):
    loss, grads, found = step(made, True, monkeypatch)
    assert found == kinds
    plain_loss, plain, none = step(made, False, monkeypatch)
    assert not none
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    for name, array in plain.items():
        scale = max(float(np.abs(array).max()), 1e-6)
        np.testing.assert_allclose(grads[name], array, rtol=1e-4, atol=1e-4 * scale, err_msg=name)


ALL = {
    "DepthwiseConv",
    "DepthwiseConvInputGrad",
    "DepthwiseConvWeightGrad",
    "ClipGrad",
    "SquaredGap",
}
LAYERS = [
    *(
        ((2, 3, size, size), [k, k], {"pads": [k // 2] * 4, "strides": [s, s]})
        for k in (3, 5, 7)
        for s in (1, 2, 3)
        for size in (3, 10)
    ),
    ((2, 3, 9, 8), [2, 4], {"pads": [0, 1, 1, 2], "strides": [1, 2]}),
    ((2, 3, 2, 3), [3, 5], {"pads": [1, 3, 2, 1]}),
    ((1, 3, 11, 9), [3, 3], {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    ((1, 3, 12, 13), [3, 3], {"dilations": [3, 2], "strides": [2, 3], "pads": [1, 0, 4, 2]}),
    ((2, 3, 8, 9), [4, 4], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((2, 3, 8, 9), [3, 3], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((2, 3, 8, 9), [3, 3], {"auto_pad": "VALID", "strides": [2, 2]}),
    ((2, 3, 31), [4], {"pads": [1, 3], "strides": [2]}),
    ((2, 3, 6), [7], {"pads": [3, 3]}),
    ((1, 3, 70, 75), [3, 3], {"pads": [1, 1, 1, 1]}),  # more than one band
]


@pytest.mark.parametrize(("x", "kernel", "how"), LAYERS)
def test_steps_are_those_of_the_standard_operators(x, kernel, how, monkeypatch):
    check(student(x, kernel, **how), monkeypatch, ALL)


def test_three_directions_stay_with_the_standard_operators(monkeypatch):
    check(
        student((1, 3, 4, 5, 6), [3, 3, 3], pads=[1] * 6), monkeypatch, {"ClipGrad", "SquaredGap"}
    )


@pytest.mark.parametrize(
    ("kind", "how", "also"),
    [
        ("HardSwish", {}, set()),
        ("HardSigmoid", {"alpha": 0.3}, set()),
        ("Relu", {}, set()),
        ("Sigmoid", {}, {"SigmoidGrad"}),
        (
            "AveragePool",
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
            set(),
        ),
    ],
)
def test_what_else_uses_them(kind, how, also, monkeypatch):
    made = student(
        (2, 3, 9, 9), [3, 3], [helper.make_node(kind, ["u"], ["v"], **how)], pads=[1, 1, 1, 1]
    )
    check(made, monkeypatch, ALL | also)


@pytest.mark.parametrize("inputs", [["u", "z"], ["z", "u"]])
@pytest.mark.parametrize("again", [False, True])
def test_sigmoid_linear_units(inputs, again, monkeypatch):
    between = [helper.make_node("Sigmoid", ["u"], ["z"]), helper.make_node("Mul", inputs, ["m"])]
    if again:  # something else reads the sigmoid: its derivative comes by itself, too
        between.append(helper.make_node("Mul", ["m", "z"], ["v"]))
    else:
        between.append(helper.make_node("Identity", ["m"], ["v"]))
    made = student((2, 3, 9, 9), [3, 3], between, pads=[1, 1, 1, 1])
    also = {"SiluGrad", "SigmoidGrad"} if again else {"SiluGrad"}
    check(made, monkeypatch, ALL | also)


# Input, weight, attributes; whether the input's derivative is a convolution itself.
WINDOWS = [
    ((2, 3, 9, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, True),
    ((2, 3, 9, 8), (4, 3, 2, 5), {"pads": [0, 2, 1, 1], "strides": [2, 3]}, False),
    ((2, 3, 9, 8), (4, 3, 1, 1), {"strides": [2, 2]}, False),
    ((2, 3, 9, 8), (4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, False),
    ((2, 3, 9, 8), (4, 3, 3, 3), {"dilations": [2, 3], "pads": [2, 3, 1, 2]}, True),
    ((2, 3, 19), (4, 3, 4), {"pads": [1, 3], "strides": [3]}, False),
    ((2, 3, 19), (17, 3, 4), {"pads": [1, 3]}, True),
    ((1, 3, 1, 1), (5, 3, 3, 3), {"pads": [1, 1, 1, 1]}, True),
    ((5, 7, 6, 33), (9, 7, 1, 3), {"pads": [0, 1, 0, 1]}, True),
    ((5, 7, 8, 8), (32, 7, 3, 3), {"pads": [1, 1, 1, 1]}, True),
    ((5, 9, 7, 13), (17, 9, 3, 3), {"pads": [0, 2, 1, 1]}, True),
    ((2, 16, 16, 16), (16, 16, 3, 3), {"pads": [1, 1, 1, 1]}, True),
    ((1, 4, 12, 17), (13, 4, 5, 5), {"pads": [2, 2, 2, 2]}, True),
    ((1, 4, 12, 17), (3, 4, 7, 7), {"pads": [1, 2, 3, 4], "dilations": [1, 2]}, True),
    ((2, 3, 9, 8), (4, 3, 3, 3), {"pads": [3, 3, 3, 3]}, False),
]


def mixing(x, w, how):
    """A layer that mixes channels, with a bias, between a varying input and another layer."""
    channels = x[1]
    weights = {
        "a": rand(channels, channels, *[1] * len(w[2:]), seed=4),
        "w": rand(*w, seed=1),
        "bias": rand(w[0], seed=2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["s"]),
        helper.make_node("Conv", ["s", "w", "bias"], ["y"], **how),
    ]
    return made_of(nodes, weights, x)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("x", "w", "how", "turns"), WINDOWS)
def test_layers_that_mix_channels(x, w, how, turns, large, monkeypatch):
    if large:
        monkeypatch.setattr(rules_layers, "MOST_DENSE", 0)
    kinds = {"ConvColumns"} if large else {"DenseConv", "DenseConvWeightGrad"}
    kinds |= {"DenseConvInputGrad", "SquaredGap"} if turns else {"SquaredGap"}
    check(mixing(x, w, how), monkeypatch, kinds)


def test_same_bits_whatever_the_threads_and_the_run(monkeypatch):
    made = student((3, 3, 40, 41), [5, 5], pads=[2, 2, 2, 2], strides=[2, 2])
    loss, grads, _ = step(made, True, monkeypatch)
    for threads in (1, 2, 3):
        again, other, _ = step(made, True, monkeypatch, threads)
        assert again == pytest.approx(loss, rel=1e-6)  # a sum of onnxruntime's own
        # Those made by our operators from values that no order of sums has touched.
        np.testing.assert_array_equal(grads["b"], other["b"])
        np.testing.assert_array_equal(grads["a"], other["a"])


@pytest.mark.parametrize(
    ("x", "w"),
    [
        ((3, 16, 20, 21), (16, 16, 3, 3)),
        ((5, 9, 8, 8), (32, 9, 3, 3)),
        ((1, 40, 50, 60), (6, 40, 3, 3)),
    ],
)
def test_same_bits_of_layers_that_mix_channels(x, w, monkeypatch):
    made = mixing(x, w, {"pads": [1, 1, 1, 1]})
    _, grads, _ = step(made, True, monkeypatch)
    for threads in (1, 2, 3):
        np.testing.assert_array_equal(grads["w"], step(made, True, monkeypatch, threads)[1]["w"])


def run_one(kind, inputs, **attributes):
    names = [f"i{i}" for i in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["o"], domain=DOMAIN, **attributes)],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library_path()))
    made = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return made.run(None, {n: np.zeros(s, np.float32) for n, s in zip(names, inputs, strict=True)})


# Of convolutions of all channels and of each by itself; what a weight has of the input's channels.
X, BOTH = (1, 4, 5, 5), (("DenseConv", 4), ("DepthwiseConv", 1))
REFUSED = [
    *(
        case
        for kind, per in BOTH
        for case in (
            (kind, [X, (4, 2, 3, 3)], {}),
            (kind, [(1, 4), (4, per)], {}),
            (kind, [(), ()], {}),
            (kind, [(1, 4, 5, 5, 5), (4, per, 3, 3, 3)], {}),
            (kind, [X, (4, per, 3)], {}),
            (kind, [X, (4, per, 0, 3)], {}),
            (kind, [X, (4, per, 3, 3), (5,)], {}),
            (kind, [X, (4, per, 3, 3)], {"strides": [1]}),
            (kind, [X, (4, per, 3, 3)], {"strides": [0, 1]}),
            (kind, [X, (4, per, 3, 3)], {"pads": [-1, 0, 0, 0]}),
            (kind, [X, (4, per, 3, 3)], {"pads": [1 << 40, 0, 0, 0]}),
            (kind, [X, (4, per, 3, 3)], {"dilations": [1, -3]}),
            (f"{kind}InputGrad", [(1, 4, 3, 3), (4, per, 3, 3)], {}),
            (f"{kind}InputGrad", [(1, 4, 3, 3), (4, per, 3, 3)], {"size": [5, 6]}),
            (f"{kind}InputGrad", [(1, 4, 3, 3), (4, per, 3, 3)], {"size": [7, -7]}),
            (f"{kind}InputGrad", [(1, 4, 3, 3), (4, per, 3, 3)], {"size": [1 << 40, 1 << 40]}),
            (f"{kind}InputGrad", [(), ()], {"size": [5, 5]}),
            (f"{kind}WeightGrad", [X, (1, 4, 4, 3)], {"kernel_shape": [3, 3]}),
            (f"{kind}WeightGrad", [X, (2, 4, 3, 3)], {"kernel_shape": [3, 3]}),
            (f"{kind}WeightGrad", [X, (1, 4, 3, 3)], {"kernel_shape": [3]}),
            (f"{kind}WeightGrad", [X, (1, 4, 3, 3)], {}),
            (f"{kind}WeightGrad", [(), ()], {}),
        )
    ),
    ("DenseConv", [(1, 0, 5, 5), (4, 0, 3, 3)], {}),
    ("DenseConvInputGrad", [(1, 3, 3, 3), (2, 4, 3, 3)], {"size": [5, 5]}),
    ("DenseConvInputGrad", [(1, 2, 2, 2), (2, 4, 3, 3)], {"size": [5, 5], "strides": [2, 2]}),
    ("DenseConvInputGrad", [(1, 2, 9, 9), (2, 4, 3, 3)], {"size": [5, 5], "pads": [3] * 4}),
    ("DepthwiseConv", [X, (3, 1, 3, 3)], {}),
    ("ConvColumns", [(1, 4, 5, 5)], {}),
    ("ConvColumns", [(1, 4, 5, 5)], {"kernel_shape": [3]}),
    ("ConvColumns", [(1, 4, 5, 5)], {"kernel_shape": [3, 0]}),
    ("ConvColumns", [()], {"kernel_shape": [3, 3]}),
    ("ClipGrad", [(3, 4), (4, 3)], {"low": 0.0}),
    ("SigmoidGrad", [(3, 4), (4, 3)], {}),
    ("SiluGrad", [(3, 4), (3, 4), (12,)], {}),
    ("SquaredGap", [(3, 4), (3, 1)], {}),
]


@pytest.mark.parametrize(("kind", "inputs", "attributes"), REFUSED)
def test_what_makes_no_sense_is_refused(kind, inputs, attributes):
    with pytest.raises(Exception, match="onnxprune"):
        run_one(kind, inputs, **attributes)


def test_what_makes_sense_is_not():
    made = run_one("DenseConvInputGrad", [(1, 2, 3, 3), (2, 4, 3, 3)], size=[5, 5])
    assert made[0].shape == (1, 4, 5, 5)
    assert run_one("DepthwiseConv", [(1, 4, 5, 5), (4, 1, 3, 3)])[0].shape == (1, 4, 3, 3)
    made = run_one("DepthwiseConvInputGrad", [(1, 4, 2, 2), (4, 1, 3, 3)], size=[6, 5],
                   strides=[2, 2])  # fmt: skip
    assert made[0].shape == (1, 4, 6, 5)
