"""Rules beyond the commonest operators, against central differences; and what ends the way."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from test_gradients import check, ints, rand

from onnxprune.gradients import Emitter, backward
from onnxprune.gradients.emit import OPSET

MS = {"domain": "com.microsoft"}


def apart(*shape):
    """Values a step apart and away from zero, so that no maximum changes hands."""
    count = int(np.prod(shape))
    values = (np.random.default_rng(0).permutation(count) - count / 2 + 0.5) / 8
    return values.reshape(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("Elu", {"alpha": 0.7}), ("Selu", {}), ("Celu", {"alpha": 1.3}), ("Softplus", {}),
        ("Softsign", {}), ("Abs", {}), ("Sin", {}), ("Cos", {}), ("ThresholdedRelu", {}),
        ("Mish", {"opset": 18}), ("Gelu", {"opset": 20}),
        ("Gelu", {"opset": 20, "approximate": "tanh"}),
        ("Gelu", MS), ("QuickGelu", MS), ("FastGelu", MS),
        ("ReduceL1", {"axes": [1]}), ("ReduceL2", {"axes": [-1], "keepdims": 0}),
        ("ReduceSumSquare", {"axes": [0, 2]}), ("ReduceLogSumExp", {"axes": [1], "keepdims": 0}),
        ("ReduceMax", {"axes": [1], "keepdims": 0}), ("ReduceMin", {"axes": [2]}),
        ("GlobalMaxPool", {}), ("LpNormalization", {"axis": 1}), ("LRN", {"size": 3, "alpha": 0.5}),
        ("Trilu", {"upper": 0}),
    ],
)  # fmt: skip
def test_one_input(kind, how):
    how = dict(how)
    x = apart(2, 4, 5)
    if kind in ("LRN", "LpNormalization"):
        x = rand(2, 4, 3, 2)
    if kind in ("ReduceLogSumExp", "Mish", "Softplus", "Elu", "Selu", "Celu", "Sin", "Cos"):
        x = x / 2
    opset = how.pop("opset", OPSET)
    check([helper.make_node(kind, ["x"], ["y"], **how)], {"x": x}, opset=opset)


def test_where_and_extremes():
    on = np.random.default_rng(3).random((3, 4)) < 0.5
    inputs = {"a": rand(2, 3, 4), "b": rand(4, seed=2)}
    check([helper.make_node("Where", ["c", "a", "b"], ["y"])], inputs, {"c": on})
    for kind in ("Max", "Min"):
        inputs = {"a": 4 * apart(3, 4), "b": 4 * apart(4) + 0.15, "c": 4 * apart(3, 1) + 0.3}
        check([helper.make_node(kind, ["a", "b", "c"], ["y"])], inputs)


@pytest.mark.parametrize("slope", [(4, 1, 1), (1,)])
def test_prelu(slope):
    inputs = {"x": apart(2, 4, 3, 2), "s": rand(*slope, seed=2)}
    check([helper.make_node("PRelu", ["x", "s"], ["y"])], inputs)


def test_elements_by_index():
    twice = {"i": np.array([[3, 0], [-1, 3]], np.int64)}
    check([helper.make_node("Gather", ["x", "i"], ["y"], axis=1)], {"x": rand(2, 4, 3)}, twice)
    each = {"i": np.array([[0, 2, 2], [1, 1, -1]], np.int64)}
    check([helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)], {"x": rand(2, 4)}, each)
    points = {"i": np.array([[0, 1], [1, 0], [0, 1]], np.int64)}
    check([helper.make_node("GatherND", ["x", "i"], ["y"])], {"x": rand(2, 4, 3)}, points)
    some = {"i": np.array([[0, 1], [1, 0]], np.int64)}
    inputs = {"x": rand(2, 4, 3), "u": rand(2, 3, seed=2)}
    check([helper.make_node("ScatterND", ["x", "i", "u"], ["y"])], inputs, some)
    rows = {"i": np.array([[3, 0, 1]], np.int64)}
    inputs = {"x": rand(4, 3), "u": rand(1, 3, seed=2)}
    for how in ({}, {"reduction": "add"}):
        check([helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], **how)], inputs, rows)
    check(
        [helper.make_node("TopK", ["x", "k"], ["y", "places"], axis=1)],
        {"x": apart(3, 6)},
        {"k": ints(2)},
    )


@pytest.mark.parametrize("how", [{}, {"reverse": 1}, {"exclusive": 1}])
def test_running_sums(how):
    node = helper.make_node("CumSum", ["x", "a"], ["y"], **how)
    check([node], {"x": rand(3, 5)}, {"a": np.array(1, np.int64)})


@pytest.mark.parametrize("text", ["bij,bjk->bik", "ij,kj->ki", "abc,c->ab", "ij,jk", "i,j->ij"])
def test_einsum(text):
    sizes = dict(zip("abcijk", (2, 3, 4, 3, 5, 2), strict=True))
    terms = text.split("->")[0].split(",")
    inputs = {f"x{n}": rand(*(sizes[c] for c in t), seed=n) for n, t in enumerate(terms)}
    check([helper.make_node("Einsum", list(inputs), ["y"], equation=text)], inputs)


RESIZES = [
    ((1, 1, 2, 2), "nearest", {}),
    ((1, 1, 2, 3), "nearest", {"coordinate_transformation_mode": "asymmetric",
                               "nearest_mode": "floor"}),
    ((1, 1, 1.5, 2), "nearest", {"coordinate_transformation_mode": "asymmetric"}),
    ((1, 1, 0.5, 0.5), "nearest", {}),
    ((1, 1, 2, 1.6), "linear", {}),
    ((1, 1, 2, 2), "linear", {"coordinate_transformation_mode": "align_corners"}),
    ((1, 1, 0.6, 2), "linear", {"coordinate_transformation_mode": "pytorch_half_pixel"}),
    ((1, 1, 2, 2), "cubic", {"cubic_coeff_a": -0.75}),
]  # fmt: skip


@pytest.mark.parametrize(("scales", "mode", "how"), RESIZES)
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(scales, mode, how, by):
    x = rand(2, 3, 6, 5)
    if by == "scales":
        names, constants = ["x", "", "s"], {"s": np.array(scales, np.float32)}
    else:
        sizes = [int(n * s) for n, s in zip(x.shape, scales, strict=True)]
        names, constants = ["x", "", "", "s"], {"s": np.array(sizes, np.int64)}
    check([helper.make_node("Resize", names, ["y"], mode=mode, **how)], {"x": x}, constants)


def test_normalisations():
    x = rand(2, 6, 3, 4)
    scale, bias = rand(6, seed=2) + 1.5, rand(6, seed=3)
    inputs = {"x": x, "s": scale, "b": bias}
    check([helper.make_node("InstanceNormalization", list(inputs), ["y"])], inputs)
    group = helper.make_node("GroupNormalization", list(inputs), ["y"], num_groups=3)
    check([group], inputs, opset=21)
    few = {"x": x, "s": scale[:3].copy(), "b": bias[:3].copy()}
    check([group], few, opset=18)
    rows = {"x": rand(3, 4, 6), "s": scale}
    rms = helper.make_node("SimplifiedLayerNormalization", list(rows), ["y"], axis=-1)
    check([rms], rows)


@pytest.mark.parametrize("extra", [(), ("t",), ("t", "b")])
def test_skip_normalisation(extra):
    inputs = {"x": rand(2, 3, 6), "skip": rand(2, 3, 6, seed=2), "g": rand(6, seed=3) + 1.5}
    inputs |= {n: rand(6, seed=4) for n in extra}
    outputs = ["y", "", "", "sum"]
    node = helper.make_node("SkipLayerNormalization", list(inputs), outputs, **MS)
    check([node], inputs, outputs=["y", "sum"])
    if not extra:
        node = helper.make_node("SkipSimplifiedLayerNormalization", list(inputs), outputs, **MS)
        check([node], inputs, outputs=["y"])


@pytest.mark.parametrize(
    ("kind", "how"),
    [("Relu", {}), ("LeakyRelu", {"activation_params": [0.2]}), ("Sigmoid", {}), ("Tanh", {}),
     ("Clip", {"activation_params": [-0.5, 0.5]}),
     ("HardSigmoid", {"activation_params": [0.2, 0.5]})],
)  # fmt: skip
def test_fused_convolutions(kind, how):
    inputs = {"x": rand(2, 3, 5, 5), "w": rand(4, 3, 3, 3, seed=2), "b": rand(4, seed=3)}
    node = helper.make_node("FusedConv", list(inputs), ["y"], activation=kind, **how, **MS)
    check([node], inputs, rtol=6e-2)  # kinks lie within the step
    inputs["z"] = rand(2, 4, 3, 3, seed=4)
    node = helper.make_node("FusedConv", list(inputs), ["y"], activation="Tanh", **MS)
    check([node], inputs)


def test_fused_products_and_biases():
    inputs = {"a": rand(2, 4, 3), "b": rand(2, 4, 5, seed=2)}
    check([helper.make_node("FusedMatMul", ["a", "b"], ["y"], transA=1, alpha=0.5, **MS)], inputs)
    inputs = {"a": rand(4, 3), "b": rand(5, 3, seed=2), "c": rand(5, seed=3)}
    node = helper.make_node("FusedGemm", list(inputs), ["y"], transB=1, activation="Tanh", **MS)
    check([node], inputs)
    for kind in ("BiasGelu", "FastGelu"):
        inputs = {"x": rand(3, 4), "b": rand(4, seed=2)}
        check([helper.make_node(kind, list(inputs), ["y"], **MS)], inputs)


def test_space_to_depth():
    node = helper.make_node("SpaceToDepth", ["x"], ["y"], blocksize=2)
    check([node], {"x": rand(2, 3, 4, 6)})


def test_a_node_without_a_rule_ends_the_way_and_says_where():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Round", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]
    shapes = {
        "x": (2, 3),
        "w": (3, 4),
        "a": (2, 4),
        "b": (2, 4),
        "v": (4, 5),
        "y": (2, 5),
        "s": (2, 5),
    }
    e = Emitter(shapes, {}, OPSET)
    ends: dict[str, str] = {}
    found = backward(e, nodes, {"y": "s"}, ["w", "v"], ends)
    assert set(found) == {"v"}
    assert list(ends) == ["a"] and "Round" in ends["a"]
