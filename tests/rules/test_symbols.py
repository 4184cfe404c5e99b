"""Sizes that nobody names: attention of a dynamic export is still pruned by heads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.rules import analysis
from onnxprune.rules.analysis import Analyzer, analyze
from onnxprune.rules.shapes import infer_shapes
from onnxprune.rules.sizes import Entry, expand_dims
from onnxprune.rules.symbols import factors_of, product_name, told_sizes, unify_symbols


def _attention(*, fused: bool = False) -> onnx.ModelProto:
    """Return attention whose shapes are computed and whose mask has sizes of its own.

    ``fused``: the scores come from an operator that ONNX's inference does not know.
    """
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal((16, 16)) for n in ("wq", "wk", "wv", "wo")}
    numbers = {"zero": 0, "one": 1, "at": [0], "open": [-1], "size": [4]}
    nodes = [helper.make_node("Shape", ["x"], ["shape"])]
    nodes += [helper.make_node("Gather", ["shape", n], [f"d_{n}"]) for n in ("zero", "one")]
    nodes += [helper.make_node("Unsqueeze", [f"d_{n}", "at"], [n + "_u"]) for n in ("zero", "one")]
    nodes += [
        helper.make_node("Concat", ["zero_u", "one_u", "open", "size"], ["split"], axis=0),
        helper.make_node("Concat", ["zero_u", "one_u", "open"], ["join"], axis=0),
    ]
    for n in "qkv":
        nodes += [
            helper.make_node("MatMul", ["x", f"w{n}"], [f"{n}0"]),
            helper.make_node("Reshape", [f"{n}0", "split"], [f"{n}1"]),
            helper.make_node("Transpose", [f"{n}1"], [n], perm=[0, 2, 1, 3]),
        ]
    if fused:
        more = {"transB": 1, "alpha": 0.5, "domain": "com.microsoft"}
        nodes.append(helper.make_node("FusedMatMul", ["q", "k"], ["s"], **more))
    else:
        nodes.append(helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]))
        nodes.append(helper.make_node("MatMul", ["q", "kt"], ["s"]))
    nodes += [
        helper.make_node("Add", ["s", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["o"]),
        helper.make_node("Transpose", ["o"], ["ot"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["ot", "join"], ["oj"]),
        helper.make_node("MatMul", ["oj", "wo"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t", 16]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, [None, 1, None, None]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 16])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in arrays.items()]
        + [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in numbers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("fused", [False, True])
def test_heads_behind_sizes_without_a_name(fused: bool) -> None:
    model = _attention(fused=fused)
    rng = np.random.default_rng(1)
    feeds = [
        {
            "x": rng.standard_normal((n, t, 16)).astype(np.float32),
            "mask": rng.standard_normal((n, 1, t, t)).astype(np.float32),
        }
        for n, t in ((2, 5), (1, 3))
    ]
    result = onnxprune.prune(model, sparsity=0.5, data=feeds, recover="none")
    assert [(g["kind"], g["units"], g["kept"]) for g in result.report["groups"]] == [
        ("heads", 4, 2),
        ("head_dim", 4, 2),
        ("head_dim", 4, 2),
    ]
    assert result.report["proof"]["passed"] and result.report["proof"]["samples"] == 2


def _sum_of(shapes):
    """A graph of one Add, c = a + b, and its values by name."""
    values = {
        n: ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT))
        for n, s in shapes.items()
    }
    node = ir.Node("", "Add", [values["a"], values["b"]], outputs=[values["c"]])
    return ir.Graph([values["a"], values["b"]], [values["c"]], nodes=[node]), values


def _dims(value):
    return [d if isinstance(d, int) else d.value for d in value.shape]


def test_a_made_up_name_gives_way_and_a_name_of_the_model_stays() -> None:
    shapes = {"a": ["batch", "unk__1"], "b": ["unk__0", "seq"], "c": ["unk__2", "unk__3"]}
    graph, values = _sum_of(shapes)
    assert unify_symbols(graph, _dims) == 4
    assert _dims(values["c"]) == ["batch", "seq"]
    assert _dims(values["a"]) == ["batch", "unk__1"], "inputs are as declared"


def test_a_name_is_not_told_to_be_a_product_of_itself() -> None:
    shapes = {"a": ["unk__1", "unk__1*unk__2"], "b": ["unk__1*unk__2", "unk__2"], "c": ["n", "t"]}
    graph, values = _sum_of(shapes)
    unify_symbols(graph, _dims)
    assert _dims(values["c"]) == ["n", "t"]


def test_expand_keeps_an_axis_that_its_target_leaves_alone() -> None:
    assert expand_dims(["n", 1, 1, "t"], [Entry(None), Entry(1), Entry(4), Entry(1)]) == [
        None, 1, 4, "t",
    ]  # fmt: skip
    assert expand_dims([3], [Entry(2), Entry(1)]) == [2, 3]


def test_one_coordinate_beside_an_unknown_size_does_not_make_it_one() -> None:
    values = {
        n: ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT))
        for n, s in {"a": [None, 4], "b": [1, 4]}.items()
    }
    c = ir.Value(name="c")
    node = ir.Node("", "Add", list(values.values()), outputs=[c])
    graph = ir.Graph(list(values.values()), [c], nodes=[node], opset_imports={"": 17})
    Analyzer(ir.Model(graph, ir_version=9))
    assert c.shape is not None
    assert [getattr(d, "value", d) for d in c.shape] == [None, 4]


def test_sizes_that_weights_give_away() -> None:
    shapes = {"x": ["n", "c", "h", "w"], "y": ["n", "f"]}
    x, y = (
        ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT))
        for n, s in shapes.items()
    )
    weights = [
        ir.Value(name=n, const_value=ir.tensor(np.zeros(s, np.float32), name=n))
        for n, s in (("k", (8, 3, 3, 3)), ("m", (5, 6)))
    ]
    read = ir.Value(name="read", shape=ir.Shape(["n", "unk__0", "h", "w"]))
    nodes = [
        ir.Node("", "Cast", [x], [ir.AttrInt64("to", 1)], outputs=[read]),
        ir.Node("", "Conv", [read, weights[0]], [ir.AttrInt64("group", 2)], outputs=[ir.Value()]),
        ir.Node("", "Gemm", [y, weights[1]], [ir.AttrInt64("transB", 1)], outputs=[ir.Value()]),
    ]
    graph = ir.Graph([x, y], [n.outputs[0] for n in nodes[1:]], nodes=nodes, initializers=weights)
    assert told_sizes(graph) == {"c": 6, "f": 6}


def test_a_product_of_unknown_sizes_keeps_its_factors() -> None:
    assert product_name(4, ["w", "h"]) == "4*h*w"
    assert factors_of(["4*h*w", 2, "n"]) == (8, ["h", "w", "n"])
    assert product_name(6, []) == 6
    assert product_name(1, list("abcde")) is None


def test_pixels_in_a_row_and_back_leave_channels_free() -> None:
    """[n, c, h, w] to [n, c, h w], a product over channels, and back by a size of -1."""
    rng = np.random.default_rng(0)
    numbers = {"two": [2], "three": [3], "four": [4], "zero": [0], "open": [-1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Slice", ["s", "zero", "two"], ["front"]),
        helper.make_node("Slice", ["s", "zero", "one_"], ["batch"]),
        helper.make_node("Slice", ["s", "two", "four"], ["back"]),
        helper.make_node("Concat", ["front", "open"], ["row"], axis=0),
        helper.make_node("Reshape", ["a", "row"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["c", "w2"], ["d"]),
        helper.make_node("Transpose", ["d"], ["e"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["batch", "open", "back"], ["plane"], axis=0),
        helper.make_node("Reshape", ["e", "plane"], ["f"]),
        helper.make_node("Conv", ["f", "w3"], ["y"]),
    ]
    arrays = {"w1": (8, 3, 3, 3), "w2": (8, 12), "w3": (5, 12, 1, 1)}
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, None, None])],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in arrays.items()
        ]
        + [
            numpy_helper.from_array(np.array(v, np.int64), k)
            for k, v in {**numbers, "one_": [1]}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    result = onnxprune.prune(model, sparsity=0.5)
    assert [(g["units"], g["kept"]) for g in result.report["groups"]] == [(8, 4), (12, 6)]
    assert result.report["proof"]["passed"]


def test_the_number_of_sizes_is_known() -> None:
    """Size of a Shape is the rank, as writers of block convolutions compute it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Size", ["s"], ["rank"]),
        helper.make_node("Size", ["x"], ["all"]),
        helper.make_node("Add", ["rank", "all"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "count",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 5, "w"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = ir.from_proto(proto)
    tracer = Analyzer(model).sizes
    values = {v.name: v for node in model.graph for v in node.outputs}
    rank, every = tracer.of(values["rank"]), tracer.of(values["all"])
    assert rank is not None and rank.item().value == 3
    assert every is not None and every.item().value is None
    assert {axis for _, axis in every.item().leaves} == {0, 1, 2}


def test_learning_shapes_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference names what a rule left open; the rule does not take the name away again."""
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["a"], domain="com.microsoft", activation="Relu"),
        helper.make_node("Conv", ["a", "v"], ["b"], strides=[2]),
        helper.make_node("Conv", ["b", "v"], ["c"], strides=[2]),
        helper.make_node("FusedConv", ["c", "v"], ["y"], domain="com.microsoft"),
    ]
    rng = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "sound",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, None])],
        [
            numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n)
            for n, s in {"w": (4, 1, 3), "v": (4, 4, 3)}.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    runs = 0

    def infer(held: ir.Model) -> bool:
        nonlocal runs
        runs += 1
        return infer_shapes(held)

    monkeypatch.setattr(analysis, "infer_shapes", infer)
    analyze(model)
    assert 1 <= runs <= 6
    known = [v.shape for node in model.graph for v in node.outputs]
    assert all(s is not None and [s[0], s[1]] == ["n", 4] for s in known)
