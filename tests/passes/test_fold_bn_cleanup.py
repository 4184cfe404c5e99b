"""fold-bn and cleanup against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune.passes.base import Context
from onnxprune.passes.cleanup import Cleanup
from onnxprune.passes.fold_bn import FoldBatchNorm


def run(proto: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def network(layer: str, shape, weight, bias, attrs, *, extra_user=False, training=0):
    rng = np.random.default_rng(3)
    out = bias if bias else weight[0]
    tensors = {"w": rng.standard_normal(weight)}
    if bias:
        tensors["b"] = rng.standard_normal(bias)
    for name in ("gamma", "beta", "mean"):
        tensors[name] = rng.standard_normal(out)
    tensors["var"] = rng.random(out) + 0.5
    inputs = ["x", "w"] + (["b"] if bias else [])
    nodes = [
        helper.make_node(layer, inputs, ["z"], name="layer", **attrs),
        helper.make_node(
            "BatchNormalization",
            ["z", "gamma", "beta", "mean", "var"],
            ["y"],
            name="norm",
            epsilon=1e-3,
            training_mode=training,
        ),
        helper.make_node("Relu", ["y"], ["out"], name="act"),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [None] * len(shape))]
    if extra_user:
        nodes.append(helper.make_node("Neg", ["z"], ["out2"], name="neg"))
        outputs.append(
            helper.make_tensor_value_info("out2", TensorProto.FLOAT, [None] * len(shape))
        )
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


CASES = {
    "conv": ("Conv", (1, 3, 6, 6), (4, 3, 3, 3), (4,), {"pads": [1, 1, 1, 1]}),
    "conv without bias": ("Conv", (1, 3, 6, 6), (4, 3, 3, 3), (), {}),
    "depthwise": ("Conv", (1, 4, 6, 6), (4, 1, 3, 3), (4,), {"group": 4}),
    "transposed": ("ConvTranspose", (1, 4, 5, 5), (4, 3, 2, 2), (6,), {"group": 2}),
    "gemm": ("Gemm", (2, 5), (4, 5), (4,), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    "conv 1-D": ("Conv", (1, 3, 9), (4, 3, 3), (4,), {}),
}


@pytest.mark.parametrize("name", CASES)
def test_folded_equals_unfolded(name):
    proto = network(*CASES[name])
    shape = CASES[name][1]
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want = run(proto, x)[0]
    model = ir.from_proto(proto)
    first = FoldBatchNorm().run(model, Context())
    assert first.modified and first.stats["folded"] == ["norm"]
    again = FoldBatchNorm().run(model, Context())
    assert not again.modified
    folded = ir.to_proto(model)
    assert [n.op_type for n in folded.graph.node] == [CASES[name][0], "Relu"]
    assert folded.graph.node[0].name == "layer" and folded.graph.node[0].output[0] == "y"
    assert "w" in {i.name for i in folded.graph.initializer}
    onnx.checker.check_model(folded, full_check=True)
    np.testing.assert_allclose(run(folded, x)[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("hindrance", [{"extra_user": True}, {"training": 1}])
def test_not_folded_where_it_would_be_wrong(hindrance):
    proto = network(*CASES["conv"], **hindrance)
    model = ir.from_proto(proto)
    result = FoldBatchNorm().run(model, Context())
    assert not result.modified
    assert result.stats["left"]["norm"]
    assert [n.op_type for n in ir.to_proto(model).graph.node][:2] == ["Conv", "BatchNormalization"]


def test_a_norm_that_is_the_output_keeps_the_output_name():
    proto = network(*CASES["conv"])
    del proto.graph.node[2]
    proto.graph.output[0].name = "y"
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    want = run(proto, x)[0]
    model = ir.from_proto(proto)
    assert FoldBatchNorm().run(model, Context()).modified
    folded = ir.to_proto(model)
    assert [o.name for o in folded.graph.output] == ["y"]
    np.testing.assert_allclose(run(folded, x)[0], want, rtol=1e-4, atol=1e-5)


def test_shared_weight_is_cloned():
    proto = network(*CASES["conv"])
    proto.graph.node.append(helper.make_node("Conv", ["x", "w"], ["other"], name="second"))
    proto.graph.output.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, None))
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    want = run(proto, x)
    model = ir.from_proto(proto)
    assert FoldBatchNorm().run(model, Context()).modified
    for a, b in zip(run(ir.to_proto(model), x), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_cleanup_removes_only_what_nothing_needs():
    proto = network(*CASES["conv"])
    proto.graph.node.append(helper.make_node("Exp", ["z"], ["unused"], name="idle"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "orphan"))
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 6)).astype(np.float32)
    want = run(proto, x)[0]
    model = ir.from_proto(proto)
    result = Cleanup().run(model, Context())
    assert result.modified and result.stats == {"nodes": 1, "initializers": 1}
    assert not Cleanup().run(model, Context()).modified
    clean = ir.to_proto(model)
    assert [n.name for n in clean.graph.node] == ["layer", "norm", "act"]
    np.testing.assert_array_equal(run(clean, x)[0], want)
