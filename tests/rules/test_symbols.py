"""Sizes that nobody names: attention of a dynamic export is still pruned by heads."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.rules.sizes import Entry, expand_dims
from onnxprune.rules.symbols import unify_symbols


def _attention() -> onnx.ModelProto:
    """Return attention whose shapes are computed and whose mask has sizes of its own."""
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
    nodes += [
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "kt"], ["s"]),
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


def test_heads_behind_sizes_without_a_name() -> None:
    model = _attention()
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


def test_a_made_up_name_gives_way_and_a_name_of_the_model_stays() -> None:
    shapes = {"a": ["batch", "unk__1"], "b": ["unk__0", "seq"], "c": ["unk__2", "unk__3"]}
    values = {
        n: ir.Value(name=n, shape=ir.Shape(s), type=ir.TensorType(ir.DataType.FLOAT))
        for n, s in shapes.items()
    }
    node = ir.Node("", "Add", [values["a"], values["b"]], outputs=[values["c"]])
    graph = ir.Graph([values["a"], values["b"]], [values["c"]], nodes=[node])

    def dims(value):
        return [d if isinstance(d, int) else d.value for d in value.shape]

    assert unify_symbols(graph, dims) == 4
    assert dims(values["c"]) == ["batch", "seq"]
    assert dims(values["a"]) == ["batch", "unk__1"], "inputs are as declared"


def test_expand_keeps_an_axis_that_its_target_leaves_alone() -> None:
    assert expand_dims(["n", 1, 1, "t"], [Entry(None), Entry(1), Entry(4), Entry(1)]) == [
        None, 1, 4, "t",
    ]  # fmt: skip
    assert expand_dims([3], [Entry(2), Entry(1)]) == [2, 3]
