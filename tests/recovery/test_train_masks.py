"""Training under fixed masks: zeros stay, held-out samples gain, what cannot be trained says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import io
from onnxprune.calibration.stages import Stream
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.recovery.apply import Reconstruction
from onnxprune.recovery.space import DAMPING
from onnxprune.recovery.train_blocks import MOMENT_COLUMNS, spaces_of
from onnxprune.rules.analysis import analyze


def save_net(path, op="Relu"):
    """conv - relu - conv - relu + shortcut - conv - pool - gemm."""
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((12, 3, 3, 3)) * 0.3,
        "b": rng.standard_normal((12, 12, 3, 3)) * 0.15,
        "c": rng.standard_normal((12, 12, 3, 3)) * 0.15,
        "d": rng.standard_normal((10, 12)) * 0.5,
        "bb": rng.standard_normal(12) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h0"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("Conv", ["r0", "b", "bb"], ["h1"], "conv1", pads=[1] * 4),
        helper.make_node(op, ["h1"], ["r1"]),
        helper.make_node("Conv", ["r1", "c"], ["h2"], "conv2", pads=[1] * 4),
        helper.make_node("Add", ["h2", "r0"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


X = np.random.default_rng(1).standard_normal((128, 3, 8, 8)).astype(np.float32)


def test_training_gains_and_zeros_stay(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path)
    result = onnxprune.prune(path, "element", 0.85, data={"x": X}, first_layer="keep")
    steps = {s["step"]: s for s in result.report["recovery"]["steps"]}
    assert steps["train"]["kept"] and steps["train"]["loss"] < steps["mask"]["loss"]
    losses = [row[1] for row in steps["train"]["history"][1:]]
    assert losses[-1] < losses[0]
    values = {v.name: v.const_value.numpy() for v in result.model.graph.initializers.values()}
    for name, mask in result.plan.masks.items():
        assert not np.count_nonzero(values[name][~mask]), name
    assert abs(result.report["sparsity"] - 0.85 * 0.9) < 0.1
    again = onnxprune.prune(path, "element", 0.85, data={"x": X}, first_layer="keep")
    for name, array in values.items():
        other = again.model.graph.initializers[name].const_value.numpy()
        np.testing.assert_array_equal(array, other)


def test_what_has_no_derivative_ends_a_block(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path, op="Floor")  # its derivative is zero everywhere
    result = onnxprune.prune(path, "element", 0.85, data={"x": X}, first_layer="keep")
    steps = {s["step"]: s for s in result.report["recovery"]["steps"]}
    train = steps["train"]
    # What lies before it is compared there, what lies behind at the output: all is trained.
    assert train["weights"] == 7 and "h1" in train["compared"]
    assert ["Floor" in why for why in train["unfollowed"]] == [True]
    assert train["history"][-1][1] < train["history"][1][1]


def test_a_weight_of_several_layers_is_trained(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path)
    model = onnx.load(path)
    model.graph.node[4].input[1] = "b"  # in both layers of the block
    del model.graph.initializer[2]
    onnx.save(model, path)
    result = onnxprune.prune(path, "element", 0.85, data={"x": X}, only="conv1")
    told = result.report["recovery"]
    assert not [row for row in told["layers"] if row["layer"] == "conv1" and row.get("why")]
    train = told["steps"][-1]
    assert train["step"] == "train" and train["kept"]
    new = result.model.graph.initializers["b"].const_value.numpy()
    old = numpy_helper.to_array(model.graph.initializer[1])
    mask = result.plan.masks["b"]
    assert not new[~mask].any() and np.abs(new - old)[mask].max() > 1e-3


def test_a_layer_of_very_many_inputs_is_left_to_training():
    rng = np.random.default_rng(2)
    weights = {"w": rng.standard_normal((6, 12288)) * 0.01, "v": rng.standard_normal((4, 6))}
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["h"], "wide", transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "v"], ["y"], "last", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 192, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = {"x": np.repeat(X, 64, axis=1)[:64] + 0.1}
    told = onnxprune.prune(model, "element", 0.5, data=data).report["recovery"]
    whys = {row["layer"]: row.get("why") or "" for row in told["layers"]}
    assert "12288 inputs" in whys["wide"] and not whys["last"]
    assert told["steps"][-1]["step"] == "train" and told["steps"][-1]["weights"] >= 2


def halved(path):
    """The network in half precision, its nodes out of order as converters leave them."""
    save_net(path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    first = model.graph.node[0]
    model.graph.node.append(first)
    del model.graph.node[0]
    onnx.save(model, path)
    return {"x": X.astype(np.float16)}


def test_half_precision_is_trained_in_float32(tmp_path):
    path = tmp_path / "net.onnx"
    data = halved(path)
    result = onnxprune.prune(path, "element", 0.85, data=data, first_layer="keep")
    train = result.report["recovery"]["steps"][-1]
    assert train["step"] == "train" and train["kept"] and train["weights"] == 7
    values = {v.name: v.const_value.numpy() for v in result.model.graph.initializers.values()}
    for name, mask in result.plan.masks.items():
        assert values[name].dtype == np.float16
        assert not np.count_nonzero(values[name][~mask]), name


def test_channels_of_half_precision_are_not_trained(tmp_path):
    path = tmp_path / "net.onnx"
    result = onnxprune.prune(path, "channel", 0.3, data=halved(path))
    told = result.report["recovery"]
    assert "float32" in told["training"]["why"] and told["steps"][-1]["loss"] < 1


def test_sizes_that_are_computed_are_known(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path)
    model = onnx.load(path)
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(v, np.int64), k)
        for k, v in {"one": [1], "two": [2], "zero": [0]}.items()
    )
    # All channels but the first, as many as Shape says; and zeros of a computed shape added.
    more = [
        helper.make_node("Shape", ["r1"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"], axis=0),
        helper.make_node("Slice", ["r1", "zero", "count", "one"], ["cut"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Add", ["cut", "zeros"], ["r1s"]),
    ]
    place = next(i for i, node in enumerate(model.graph.node) if node.name == "conv2")
    model.graph.node[place].input[0] = "r1s"
    for node in reversed(more):
        model.graph.node.insert(place, node)
    onnx.save(model, path)
    result = onnxprune.prune(path, "element", 0.85, data={"x": X}, first_layer="keep")
    (train,) = (s for s in result.report["recovery"]["steps"] if s["step"] == "train")
    assert train["weights"] == 7 and train["unfollowed"] == []


def open_sizes(path):
    save_net(path)
    model = onnx.load(path)
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].ClearField("dim_value")
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    onnx.save(model, path)


def test_samples_of_a_few_sizes_are_trained_on(tmp_path):
    path = tmp_path / "net.onnx"
    open_sizes(path)
    feeds = [{"x": X[4 * i : 4 * i + 4, :, : 6 + i % 3, :]} for i in range(30)]
    result = onnxprune.prune(path, "element", 0.85, data=feeds, first_layer="keep")
    steps = {s["step"]: s for s in result.report["recovery"]["steps"]}
    assert steps["train"]["kept"] and steps["train"]["loss"] < steps["mask"]["loss"]


def test_samples_of_many_sizes_say_so(tmp_path):
    path = tmp_path / "net.onnx"
    open_sizes(path)
    wide = np.tile(X[:1], (1, 1, 3, 3))
    feeds = [{"x": wide[:, :, : 5 + i % 10, : 5 + i // 10]} for i in range(90)]
    result = onnxprune.prune(path, "element", 0.9, data=feeds, first_layer="keep")
    (step,) = (s for s in result.report["recovery"]["steps"] if s["step"] == "train")
    assert not step["kept"] and "shapes" in step["why"]


def save_recurrent(path):
    """gru - gemm over the steps."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 48, 12)) * 0.4,
        "r": rng.standard_normal((1, 48, 16)) * 0.3,
        "b": rng.standard_normal((1, 96)) * 0.1,
        "d": rng.standard_normal((16, 8)) * 0.5,
    }
    nodes = [
        helper.make_node("GRU", ["x", "w", "r", "b"], ["s"], "gru", hidden_size=16),
        helper.make_node("Squeeze", ["s", "axis"], ["q"]),
        helper.make_node("MatMul", ["q", "d"], ["y"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, "n", 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [6, "n", 8])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
        + [numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)


def test_recurrent_layers_are_trained(tmp_path):
    path = tmp_path / "net.onnx"
    save_recurrent(path)
    rng = np.random.default_rng(2)
    feeds = [{"x": rng.standard_normal((6, 8, 12)).astype(np.float32)} for _ in range(24)]
    result = onnxprune.prune(path, "element", 0.7, data=feeds, first_layer="prune")
    steps = {s["step"]: s for s in result.report["recovery"]["steps"]}
    assert steps["train"]["kept"], steps["train"]
    before = min(s["loss"] for n, s in steps.items() if n != "train")
    assert steps["train"]["loss"] < before
    values = {v.name: v.const_value.numpy() for v in result.model.graph.initializers.values()}
    assert {"w", "r"} <= set(result.plan.masks)
    for name, mask in result.plan.masks.items():
        assert not np.count_nonzero(values[name][~mask]), name


def test_without_recovery_nothing_is_trained(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path)
    result = onnxprune.prune(path, "element", 0.5, data={"x": X}, recover="none")
    assert result.report["recovery"] is None
    with pytest.raises(onnxprune.api.UsageError):
        onnxprune.prune(path, "element", 0.5, data={"x": X}, recover="some")


def test_few_columns_are_trusted_less(tmp_path):
    path = tmp_path / "net.onnx"
    save_net(path)
    model = io.load(path).model
    InferShapes().run(model, Context())
    found = {}
    for samples in (8, 128):
        work = Reconstruction(
            analyze(model), [{"x": X[at : at + 4]} for at in range(0, samples, 4)]
        )
        spaces = spaces_of(work, Stream(work.stages, work.feeds), {})
        found[samples] = {n: np.linalg.eigvalsh(s.moment).min() for n, s in spaces.items()}
    # The last layer has a column a sample, and 24 times its 12 inputs would be plenty.
    assert found[8]["d"] >= 0.99 * DAMPING * MOMENT_COLUMNS * 12 / 8
    assert found[8]["d"] > 4 * found[128]["d"]
    assert found[8]["b"] < 2 * found[128]["b"]  # many positions a sample
